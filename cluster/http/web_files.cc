#include "cluster/http/web_files.h"

#include <string_view>

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <absl/strings/strip.h>

namespace omni {
namespace {

constexpr char kPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const WebFileBytes* Find(const std::string& path) {
  std::string_view name = path;
  if (path == "/") {
    name = "index.html";
  } else if (name.starts_with(kWebPath)) {
    name.remove_prefix(std::string_view(kWebPath).size());
  } else {
    return nullptr;
  }
  for (size_t i = 0; i < kWebFileCount; ++i) {
    if (name == kWebFileBytes[i].name) return &kWebFileBytes[i];
  }
  return nullptr;
}

const char* TypeOf(std::string_view name) {
  if (name.ends_with(".html")) return "text/html; charset=utf-8";
  if (name.ends_with(".css")) return "text/css; charset=utf-8";
  if (name.ends_with(".js")) return "text/javascript; charset=utf-8";
  if (name.ends_with(".svg")) return "image/svg+xml";
  return "application/octet-stream";
}

// If-None-Match is a list of tags, or a star; a weak tag is as good.
bool Has(const std::string& if_none_match, const std::string& tag) {
  for (const auto piece : absl::StrSplit(if_none_match, ',')) {
    const auto one = absl::StripPrefix(absl::StripAsciiWhitespace(piece), "W/");
    if (one == tag || one == "*") return true;
  }
  return false;
}

}  // namespace

bool IsWebFile(const std::string& path) { return Find(path) != nullptr; }

HttpAnswer WebFile(const HttpRequest& request) {
  HttpAnswer answer;
  const WebFileBytes* file = Find(request.path);
  if (file == nullptr) {
    answer.status = 404;
    return answer;
  }
  const std::string tag = absl::StrCat("\"", std::string(file->sha256, 32), "\"");
  answer.content_type = TypeOf(file->name);
  answer.headers = {{"ETag", tag},
                    {"Cache-Control", "no-cache"},  // kept, and asked about each time: programs are replaced
                    {"Content-Security-Policy", kPolicy},
                    {"X-Content-Type-Options", "nosniff"},
                    {"Referrer-Policy", "no-referrer"},
                    {"Cross-Origin-Opener-Policy", "same-origin"},
                    {"Cross-Origin-Resource-Policy", "same-origin"}};
  if (Has(request.Header("if-none-match"), tag)) {
    answer.status = 304;
    return answer;
  }
  answer.body.assign(reinterpret_cast<const char*>(file->bytes), file->size);
  return answer;
}

}  // namespace omni
