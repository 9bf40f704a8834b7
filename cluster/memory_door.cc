#include "cluster/memory_door.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "cluster/http/json_answer.h"
#include "cluster/http/openai_answer.h"
#include "cluster/memory_request.h"
#include "engine/base/json.h"

namespace omni {
namespace {

using Json = nlohmann::json;

absl::StatusOr<Json> Add(Memory& memory, const std::string& owner, const std::string& body) {
  const absl::StatusOr<MemoryAddition> asked = ReadMemoryAddition(body);
  if (!asked.ok()) return asked.status();
  if (absl::Status s = memory.Add(asked->scope, asked->associations, owner); !s.ok()) return s;
  return Json{{"scope", asked->scope}, {"added", asked->associations.size()}};
}

absl::StatusOr<Json> Ask(Memory& memory, const std::string& owner, const std::string& body) {
  const absl::StatusOr<MemoryQuestion> asked = ReadMemoryQuestion(body);
  if (!asked.ok()) return asked.status();
  const absl::StatusOr<std::optional<Remembered>> got = memory.Ask(asked->scope, *asked->key, owner);
  if (!got.ok()) return got.status();
  if (!got->has_value()) return Json{{"scope", asked->scope}, {"value", nullptr}};
  const Recalled& how = (*got)->how;
  return Json{{"scope", asked->scope}, {"value", (*got)->value}, {"distance", how.distance},
              {"margin", how.margin},  {"votes", how.votes},     {"bank_items", how.bank_items}};
}

absl::StatusOr<Json> Forget(Memory& memory, const std::string& owner, const std::string& body) {
  const absl::StatusOr<MemoryQuestion> asked = ReadMemoryForgetting(body);
  if (!asked.ok()) return asked.status();
  const absl::StatusOr<int64_t> forgotten = memory.Forget(asked->scope, asked->key, owner);
  if (!forgotten.ok()) return forgotten.status();
  return Json{{"scope", asked->scope}, {"forgotten", *forgotten}};
}

absl::StatusOr<Json> Stats(Memory& memory, const std::string& owner) {
  const absl::StatusOr<std::vector<ScopeStats>> stats = memory.Stats(owner);
  if (!stats.ok()) return stats.status();
  Json list = Json::array();
  for (const ScopeStats& s : *stats) {
    list.push_back({{"scope", s.scope},
                    {"keys", s.associations},
                    {"values", s.values},
                    {"used_banks", s.used_banks},
                    {"fullest_bank", s.fullest_bank},
                    {"bytes", s.bytes},
                    {"version", s.version}});
  }
  return Json{{"scopes", std::move(list)}};
}

// A request that waits for the disk.
class Waiting final : public HttpCall {};

}  // namespace

void MemoryDoor::AddRoutes(HttpRoutes& routes, const HttpDoorFacts&) {
  using Deed = std::function<absl::StatusOr<Json>(Memory&, const std::string& owner)>;
  const auto run = [this](const std::string& owner, std::shared_ptr<CallerLimits::Permit> permit,
                          std::shared_ptr<HttpExchange> exchange, Deed deed) -> std::shared_ptr<HttpCall> {
    absl::Status posted = deeds_.Serving();
    if (posted.ok()) {
      const auto answer = [exchange](HttpAnswer with) {
        exchange->Post([exchange, with = std::move(with)] { exchange->Answer(with); });
      };
      posted = deeds_.Run(
          [owner, permit = std::move(permit), answer, deed = std::move(deed)](Memory& memory) {
            const absl::StatusOr<Json> done = deed(memory, owner);
            answer(done.ok() ? JsonAnswer(*done) : ErrorAnswer(done.status()));
          },
          [answer](const absl::Status& thrown) { answer(ErrorAnswer(thrown)); });
    }
    if (posted.ok()) return std::make_shared<Waiting>();
    exchange->Answer(ErrorAnswer(posted));
    return nullptr;
  };
  const auto post = [&](const char* path, auto deed) {
    routes.Work(path,
                [run, deed](RoutedRequest request,
                            std::shared_ptr<HttpExchange> exchange) -> std::shared_ptr<HttpCall> {
                  return run(
                      request.caller, std::move(request.permit), std::move(exchange),
                      [deed, body = std::move(request.http.body)](Memory& memory, const std::string& owner) {
                        return deed(memory, owner, body);
                      });
                });
  };
  post("/v1/memory/ask", Ask);
  post("/v1/memory/forget", Forget);
  post("/v1/memory", Add);
  routes.Call(
      "GET", "/v1/memory",
      [run](RoutedRequest request, std::shared_ptr<HttpExchange> exchange) {
        return run(request.caller, nullptr, std::move(exchange), Stats);
      },
      RouteNeeds::kInfer);
}

}  // namespace omni
