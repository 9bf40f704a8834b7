#include "cli/adapter_list.h"

#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "engine/around/adapter.h"
#include "engine/base/interrupt.h"
#include "engine/base/json.h"
#include "engine/base/quoted.h"

namespace omni::cli {
namespace {

using Json = nlohmann::json;

absl::Status Unreadable(const OpenAiClient& server) {
  return absl::FailedPreconditionError(absl::StrCat(
      server.server(), ": what it says of its adapters cannot be read; is it of another version?"));
}

}  // namespace

absl::StatusOr<std::vector<ListedAdapter>> AdaptersOf(const AdapterFiles& files) {
  const absl::StatusOr<std::vector<std::string>> names = files.Names();
  if (!names.ok()) return names.status();
  std::vector<ListedAdapter> list;
  for (const std::string& name : *names) {
    const absl::StatusOr<std::string> bytes = files.Load(name);
    if (!bytes.ok()) return bytes.status();
    ListedAdapter& one = list.emplace_back();
    one.adapter.name = name;
    one.bytes = std::ssize(*bytes);
    const absl::StatusOr<Adapter> adapter = Adapter::Read(*bytes);
    if (!adapter.ok()) {
      one.error = std::string(adapter.status().message());
      continue;
    }
    const AdapterOrigin& from = adapter->origin();
    one.adapter = {name,
                   adapter->Hash(),
                   adapter->model_hash(),
                   from.tokens,
                   from.held_out_tokens,
                   adapter->size(),
                   from.nats_before > 0 ? 1 - from.nats / from.nats_before : 0};
  }
  return list;
}

absl::StatusOr<std::vector<ListedAdapter>> AdaptersOf(ClusterClient& cluster) {
  absl::StatusOr<std::vector<OfferedAdapter>> offered = cluster.Adapters();
  if (!offered.ok()) return offered.status();
  std::vector<ListedAdapter> list;
  for (OfferedAdapter& one : *offered) list.push_back({std::move(one), std::nullopt, ""});
  return list;
}

absl::StatusOr<std::vector<ListedAdapter>> AdaptersOf(OpenAiClient& server) {
  const absl::StatusOr<std::string> answer =
      server.Ask("/adapters", "", [] { return !InterruptGuard::Requested(); });
  if (absl::IsNotFound(answer.status())) {
    return absl::NotFoundError(absl::StrCat(server.server(),
                                            " knows nothing of adapters: it is no omni serve, or one of an "
                                            "older version"));
  }
  if (!answer.ok()) return answer.status();
  const absl::StatusOr<Json> json = ParseJson<Json>(*answer);
  if (!json.ok()) return Unreadable(server);
  std::vector<ListedAdapter> list;
  try {
    for (const Json& one : json->at("data")) {
      ListedAdapter& to = list.emplace_back();
      to.adapter = {one.at("id").get<std::string>(),
                    one.at("hash").get<std::string>(),
                    one.at("model_hash").get<std::string>(),
                    one.at("tokens").get<int64_t>(),
                    one.at("held_out_tokens").get<int64_t>(),
                    one.at("values").get<int64_t>(),
                    one.at("gain").get<double>()};
    }
  } catch (const Json::exception&) {
    return Unreadable(server);
  }
  return list;
}

absl::Status CheckOffered(OpenAiClient& server, const std::string& name) {
  const absl::StatusOr<std::vector<ListedAdapter>> list = AdaptersOf(server);
  if (absl::IsUnavailable(list.status())) return absl::OkStatus();  // what is wrong, the answer will say
  if (!list.ok()) return list.status();
  std::vector<std::string> names;
  for (const ListedAdapter& one : *list) {
    if (one.adapter.name == name) return absl::OkStatus();
    names.push_back(one.adapter.name);
  }
  return absl::NotFoundError(absl::StrCat(
      server.server(), ": there is no adapter ", Quoted(name), "; there ",
      names.empty() ? "is none at all"
                    : absl::StrCat(names.size() == 1 ? "is " : "are ", absl::StrJoin(names, ", "))));
}

}  // namespace omni::cli
