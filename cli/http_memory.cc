#include "cli/http_memory.h"

#include <absl/strings/str_cat.h>

#include "engine/base/interrupt.h"
#include "engine/base/json.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;

}  // namespace

// A null body: GET.
absl::StatusOr<Json> HttpMemory::Call(const std::string& path, const Json& body) const {
  std::string text;
  try {
    if (!body.is_null()) text = body.dump();
  } catch (const Json::exception&) {
    return absl::InvalidArgumentError(
        "what is to be remembered is no UTF-8, which texts over HTTP are; use --cluster, which takes any "
        "bytes");
  }
  const absl::StatusOr<std::string> answer =
      client_->Ask(path, text, [] { return !InterruptGuard::Requested(); });
  if (!answer.ok()) return answer.status();
  absl::StatusOr<Json> json = ParseJson<Json>(*answer);
  if (json.ok() && json->is_object()) return json;
  return absl::UnavailableError(
      absl::StrCat(client_->server(), ": what it answers is no JSON object; is it an omni serve?"));
}

absl::Status HttpMemory::Add(const std::string& scope, const std::vector<Association>& associations) const {
  Json list = Json::array();
  for (const Association& a : associations) list.push_back({{"key", a.key}, {"value", a.value}});
  return Call("/memory", {{"scope", scope}, {"associations", std::move(list)}}).status();
}

absl::StatusOr<std::optional<Remembered>> HttpMemory::Ask(const std::string& scope,
                                                          const std::string& key) const {
  const absl::StatusOr<Json> json = Call("/memory/ask", {{"scope", scope}, {"key", key}});
  if (!json.ok()) return json.status();
  const auto value = json->find("value");
  if (value == json->end() || !value->is_string()) return std::optional<Remembered>();
  Remembered got{value->get<std::string>(), {}};
  const auto number = [&](const char* name) {
    const auto found = json->find(name);
    return found != json->end() && found->is_number_integer() ? found->get<int64_t>() : int64_t{0};
  };
  got.how = {0, number("distance"), number("margin"), number("votes"), number("bank_items")};
  return std::optional<Remembered>(std::move(got));
}

absl::StatusOr<int64_t> HttpMemory::Forget(const std::string& scope,
                                           const std::optional<std::string>& key) const {
  Json body = {{"scope", scope}};
  if (key.has_value()) {
    body["key"] = *key;
  } else {
    body["all"] = true;
  }
  const absl::StatusOr<Json> json = Call("/memory/forget", body);
  if (!json.ok()) return json.status();
  const auto forgotten = json->find("forgotten");
  return forgotten != json->end() && forgotten->is_number_integer() ? forgotten->get<int64_t>() : 0;
}

absl::StatusOr<std::vector<ScopeStats>> HttpMemory::Stats() const {
  const absl::StatusOr<Json> json = Call("/memory", nullptr);
  if (!json.ok()) return json.status();
  std::vector<ScopeStats> stats;
  try {
    for (const Json& s : json->at("scopes")) {
      stats.push_back({s.at("scope").get<std::string>(), s.at("keys").get<int64_t>(),
                       s.at("values").get<int64_t>(), s.at("used_banks").get<int64_t>(),
                       s.at("fullest_bank").get<int64_t>(), s.at("bytes").get<int64_t>(),
                       s.at("version").get<std::string>()});
    }
  } catch (const Json::exception&) {
    return absl::UnavailableError(absl::StrCat(
        client_->server(), ": what it says of its memory cannot be read; is it of another version?"));
  }
  return stats;
}

}  // namespace omni::cli
