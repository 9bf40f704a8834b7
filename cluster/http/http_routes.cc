#include "cluster/http/http_routes.h"

#include <optional>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

namespace omni {
namespace {

// What a path has in the place of a pattern's '*'; nothing if it does not fit.
std::optional<std::string_view> Match(std::string_view pattern, std::string_view path) {
  const size_t star = pattern.find('*');
  if (star == pattern.npos) return pattern == path ? std::optional(std::string_view()) : std::nullopt;
  const std::string_view before = pattern.substr(0, star), after = pattern.substr(star + 1);
  if (path.size() <= before.size() + after.size() || !path.starts_with(before) || !path.ends_with(after))
    return std::nullopt;
  const std::string_view part = path.substr(before.size(), path.size() - before.size() - after.size());
  if (!after.empty() && part.find('/') != part.npos) return std::nullopt;
  return part;
}

// %XX as the byte that it means; what is none stays.
std::string Decoded(std::string_view part) {
  std::string out;
  for (size_t i = 0; i < part.size(); ++i) {
    const bool coded = part[i] == '%' && i + 2 < part.size() &&
                       absl::ascii_isxdigit(static_cast<unsigned char>(part[i + 1])) &&
                       absl::ascii_isxdigit(static_cast<unsigned char>(part[i + 2]));
    if (coded) {
      out += absl::HexStringToBytes(absl::string_view(part.data() + i + 1, 2));
      i += 2;
    } else {
      out += part[i];
    }
  }
  return out;
}

bool Takes(const HttpRoute& route, std::string_view method) {
  return method == route.method || (method == "HEAD" && route.method == std::string_view("GET"));
}

}  // namespace

void HttpRoutes::Page(const char* method, const char* path, RoutePage page, RouteNeeds needs) {
  routes_.push_back({method, path, HttpRoute::Kind::kPage,
                     [page = std::move(page)](RoutedRequest request, std::shared_ptr<HttpExchange> exchange)
                         -> std::shared_ptr<HttpCall> {
                       exchange->Answer(page(request));
                       return nullptr;
                     },
                     needs});
}

void HttpRoutes::Work(const char* path, RouteHandler handle, RouteNeeds needs) {
  routes_.push_back({"POST", path, HttpRoute::Kind::kWork, std::move(handle), needs});
}

void HttpRoutes::Stream(const char* path, RouteHandler handle, RouteNeeds needs) {
  routes_.push_back({"GET", path, HttpRoute::Kind::kPage, std::move(handle), needs});
}

void HttpRoutes::Call(const char* method, const char* path, RouteHandler handle, RouteNeeds needs) {
  routes_.push_back({method, path, HttpRoute::Kind::kPage, std::move(handle), needs});
}

HttpRoutes::Found HttpRoutes::Find(std::string_view method, std::string_view path) const {
  Found found;
  for (const HttpRoute& route : routes_) {
    const std::optional<std::string_view> part = Match(route.path, path);
    if (!part.has_value() || (found.path != nullptr && found.path != std::string_view(route.path))) continue;
    found.path = route.path;
    absl::StrAppend(&found.allowed, found.allowed.empty() ? "" : ", ", route.method,
                    route.method == std::string_view("GET") ? ", HEAD" : "");
    if (found.route != nullptr || !Takes(route, method)) continue;
    found.route = &route;
    found.argument = Decoded(*part);
  }
  return found;
}

}  // namespace omni
