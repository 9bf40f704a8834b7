#include "cluster/tasks/a2a_door.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include <absl/strings/ascii.h>
#include <absl/strings/escaping.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <grpcpp/impl/service_type.h>
#include <nlohmann/json.hpp>

#include "cluster/tasks/a2a_error.h"
#include "cluster/tasks/a2a_handlers.h"
#include "cluster/tasks/a2a_json.h"
#include "cluster/tasks/a2a_messages.h"
#include "cluster/tasks/a2a_service.h"
#include "engine/base/json.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr size_t kMostBody = 1 << 20;  // twice what a task may be given
constexpr char kPushes[] = "/pushNotificationConfigs";
constexpr char kEventStream[] = "text/event-stream";

// How a call is answered.
struct Voice {
  bool rpc = false;       // JSON-RPC, else HTTP+JSON
  bool legacy = false;    // 0.3
  bool extended = false;  // the client knows the extension
  Json id;                // of JSON-RPC

  std::string Result(Json result) const {
    if (!rpc) return JsonText(result);
    return JsonText(Json{{"jsonrpc", "2.0"}, {"id", id}, {"result", std::move(result)}});
  }
  std::string Error(const absl::Status& status) const {
    if (!rpc) return JsonText(Json{{"error", A2aErrorJson(status)}});
    return JsonText(Json{{"jsonrpc", "2.0"}, {"id", id}, {"error", A2aRpcErrorJson(status)}});
  }
  HttpAnswer Head(int status, const char* type) const {
    HttpAnswer head;
    head.status = status;
    head.content_type = type;
    if (extended) head.headers.emplace_back("A2A-Extensions", kA2aExtension);
    if (type == kEventStream) head.headers.emplace_back("Cache-Control", "no-store");
    return head;
  }
  HttpAnswer Refusal(const absl::Status& status) const {
    HttpAnswer answer = Head(rpc ? 200 : A2aErrorOf(status).http, "application/json");
    answer.body = Error(status) + "\n";
    return answer;
  }
};

template <typename Message>
Json Said(const Voice&, const Message& message) {
  return A2aJson(message);
}
Json Said(const Voice& voice, const a2a::TaskPushNotificationConfig& config) {
  return voice.legacy ? LegacyPushJson(config) : A2aJson(config);
}
Json Said(const Voice& voice, const a2a::ListTaskPushNotificationConfigsResponse& response) {
  Json configs = Json::array();
  for (const auto& config : response.configs()) configs.push_back(Said(voice, config));
  return voice.legacy ? configs : Json{{"configs", std::move(configs)}, {"nextPageToken", ""}};
}
Json Said(const Voice& voice, const google::protobuf::Empty&) {
  return voice.legacy ? Json() : Json::object();
}
Json Said(const Voice& voice, const a2a::Task& task) {
  return voice.legacy ? LegacyTaskJson(task) : A2aJson(task);
}
Json Said(const Voice& voice, const a2a::SendMessageResponse& response) {
  return voice.legacy ? LegacyTaskJson(response.task()) : A2aJson(response);
}

class A2aCall final : public HttpCall, public std::enable_shared_from_this<A2aCall> {
 public:
  A2aCall(std::shared_ptr<HttpExchange> exchange, Voice voice)
      : exchange_(std::move(exchange)), voice_(std::move(voice)) {}

  // What is called with a whole answer, from any thread, where it is put into words.
  template <typename T>
  std::function<void(absl::StatusOr<T>)> Whole() {
    return [exchange = exchange_, voice = voice_](const absl::StatusOr<T>& result) {
      HttpAnswer answer;
      if (result.ok()) {
        answer = voice.Head(200, "application/json");
        answer.body = voice.Result(Said(voice, *result)) + "\n";
      } else {
        answer = voice.Refusal(result.status());
      }
      exchange->Post([exchange, answer = std::move(answer)] { exchange->Answer(answer); });
    };
  }
  // The same with a stream, whose first updates say whether it is one.
  std::function<void(absl::StatusOr<std::shared_ptr<A2aStream>>)> Stream() {
    return
        [exchange = exchange_, weak = weak_from_this()](absl::StatusOr<std::shared_ptr<A2aStream>> stream) {
          exchange->Post([weak, stream = std::move(stream)] {
            const auto self = weak.lock();
            if (self == nullptr) return;
            if (!stream.ok()) return self->Failed(stream.status());
            self->stream_ = *stream;
            self->Ask();
          });
        };
  }
  void Hold(std::shared_ptr<void> waiting) { waiting_ = std::move(waiting); }

  void OnSent() override {
    if (std::exchange(behind_, false)) Ask();
  }
  void OnQuiet() override {
    if (begun_ && exchange_->unsent() == 0) exchange_->Write(": here\n\n");
  }

 private:
  void Ask() {
    stream_->Next([exchange = exchange_, voice = voice_,
                   weak = weak_from_this()](const absl::StatusOr<A2aStream::Batch>& batch) {
      std::string text;
      if (batch.ok()) {
        for (const a2a::StreamResponse& update : batch->updates)
          absl::StrAppend(&text, "data: ", voice.Result(A2aJson(update)), "\n\n");
      }
      const bool over = batch.ok() && batch->over;
      exchange->Post([weak, text = std::move(text), over, status = batch.status()] {
        const auto self = weak.lock();
        if (self == nullptr) return;
        status.ok() ? self->Take(text, over) : self->Failed(status);
      });
    });
  }
  void Take(const std::string& text, bool over) {
    if (!std::exchange(begun_, true)) exchange_->Begin(voice_.Head(200, kEventStream));
    exchange_->Write(text);
    if (over) {
      stream_ = nullptr;
      exchange_->End();
    } else if (exchange_->unsent() > 0) {
      behind_ = true;  // what is not sent is not read either
    } else {
      Ask();
    }
  }
  void Failed(const absl::Status& status) {
    stream_ = nullptr;
    if (!begun_) return exchange_->Answer(voice_.Refusal(status));
    exchange_->Write(
        absl::StrCat(voice_.rpc ? "" : "event: error\n", "data: ", voice_.Error(status), "\n\n"));
    exchange_->End();
  }

  const std::shared_ptr<HttpExchange> exchange_;
  const Voice voice_;
  std::shared_ptr<A2aStream> stream_;
  std::shared_ptr<void> waiting_;
  bool begun_ = false, behind_ = false;
};

bool IsJsonType(const std::string& header) {
  const std::string type(
      absl::StripAsciiWhitespace(absl::AsciiStrToLower(header.substr(0, header.find(';')))));
  return type == "application/json" || type == "application/a2a+json";
}

// "a=b&c=d" as an object of texts, which protobuf reads as what they are to be.
absl::StatusOr<Json> QueryJson(const std::string& query) {
  Json json = Json::object();
  for (const absl::string_view pair : absl::StrSplit(query, '&', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(pair, absl::MaxSplits('=', 1));
    std::array<std::string, 2> words;
    for (size_t which = 0; which < 2; ++which) {
      const std::string& from = which == 0 ? parts.first : parts.second;
      for (size_t i = 0; i < from.size(); ++i) {
        const bool coded = from[i] == '%' && i + 2 < from.size() &&
                           absl::ascii_isxdigit(static_cast<unsigned char>(from[i + 1])) &&
                           absl::ascii_isxdigit(static_cast<unsigned char>(from[i + 2]));
        if (coded) {
          words[which] += absl::HexStringToBytes(from.substr(i + 1, 2));
          i += 2;
        } else {
          words[which] += from[i] == '+' ? ' ' : from[i];
        }
      }
    }
    if (json.contains(words[0]))
      return A2aStatus(A2aReason::kInvalidParams,
                       absl::StrCat("the query says ", Quoted(words[0]), " twice"));
    json[words[0]] = words[1];
  }
  return json;
}

// Everything of one request.
struct Asked {
  A2aHandlers& handlers;
  A2aAsker asker;
  Voice voice;
  std::shared_ptr<HttpExchange> exchange;

  std::shared_ptr<HttpCall> Refuse(const absl::Status& status) const {
    exchange->Answer(voice.Refusal(status));
    return nullptr;
  }
  std::shared_ptr<A2aCall> Call() const { return std::make_shared<A2aCall>(exchange, voice); }

  std::shared_ptr<HttpCall> Send(const a2a::SendMessageRequest& request) const {
    auto call = Call();
    call->Hold(handlers.Send(asker, request, call->Whole<a2a::SendMessageResponse>()));
    return call;
  }
  std::shared_ptr<HttpCall> Stream(const a2a::SendMessageRequest& request) const {
    auto call = Call();
    handlers.SendStreaming(asker, request, call->Stream());
    return call;
  }
  std::shared_ptr<HttpCall> Get(const a2a::GetTaskRequest& request) const {
    auto call = Call();
    handlers.Get(asker, request, call->Whole<a2a::Task>());
    return call;
  }
  std::shared_ptr<HttpCall> List(const a2a::ListTasksRequest& request) const {
    auto call = Call();
    handlers.List(asker, request, call->Whole<a2a::ListTasksResponse>());
    return call;
  }
  std::shared_ptr<HttpCall> Cancel(const a2a::CancelTaskRequest& request) const {
    auto call = Call();
    handlers.Cancel(asker, request, call->Whole<a2a::Task>());
    return call;
  }
  std::shared_ptr<HttpCall> Subscribe(const a2a::SubscribeToTaskRequest& request) const {
    auto call = Call();
    handlers.Subscribe(asker, request, call->Stream());
    return call;
  }
  std::shared_ptr<HttpCall> CreatePush(const a2a::TaskPushNotificationConfig& config) const {
    auto call = Call();
    handlers.CreatePush(asker, config, call->Whole<a2a::TaskPushNotificationConfig>());
    return call;
  }
  std::shared_ptr<HttpCall> GetPush(const a2a::GetTaskPushNotificationConfigRequest& request) const {
    auto call = Call();
    handlers.GetPush(asker, request, call->Whole<a2a::TaskPushNotificationConfig>());
    return call;
  }
  std::shared_ptr<HttpCall> ListPushes(const a2a::ListTaskPushNotificationConfigsRequest& request) const {
    auto call = Call();
    handlers.ListPushes(asker, request, call->Whole<a2a::ListTaskPushNotificationConfigsResponse>());
    return call;
  }
  std::shared_ptr<HttpCall> DeletePush(const a2a::DeleteTaskPushNotificationConfigRequest& request) const {
    auto call = Call();
    handlers.DeletePush(asker, request, call->Whole<google::protobuf::Empty>());
    return call;
  }
  // `answer(request)`, of what the JSON says.
  template <typename Request>
  std::shared_ptr<HttpCall> With(const Json& json,
                                 std::shared_ptr<HttpCall> (Asked::*answer)(const Request&) const) const {
    Request request;
    if (absl::Status s = ReadA2aJson(json, &request); !s.ok()) return Refuse(s);
    return (this->*answer)(request);
  }
};

absl::Status CheckPost(const HttpRequest& request) {
  if (!IsJsonType(request.Header("content-type"))) {
    return A2aStatus(A2aReason::kContentTypeNotSupported,
                     "the body must be JSON, and the Content-Type application/json or application/a2a+json");
  }
  if (request.body.size() <= kMostBody) return absl::OkStatus();
  return A2aStatus(A2aReason::kInvalidParams,
                   absl::StrCat("the body has ", request.body.size(), " bytes; at most ", kMostBody));
}

absl::Status NoExtendedCard() {
  return A2aStatus(A2aReason::kExtendedAgentCardNotConfigured, "there is one agent card, for everybody");
}

// --- JSON-RPC

std::shared_ptr<HttpCall> AnswerLegacy(Asked& asked, const std::string& method, const Json& params) {
  asked.voice.legacy = true;
  if (method == "message/send") {
    const absl::StatusOr<a2a::SendMessageRequest> request = ReadLegacyMessage(params);
    return request.ok() ? asked.Send(*request) : asked.Refuse(request.status());
  }
  if (method == "tasks/get") return asked.With(params, &Asked::Get);
  if (method == "tasks/cancel") return asked.With(params, &Asked::Cancel);
  const absl::StatusOr<Json> push = ReadLegacyPush(params);
  if (!push.ok()) return asked.Refuse(push.status());
  if (absl::EndsWith(method, "/set")) return asked.With(*push, &Asked::CreatePush);
  if (absl::EndsWith(method, "/get")) return asked.With(*push, &Asked::GetPush);
  if (absl::EndsWith(method, "/list")) return asked.With(*push, &Asked::ListPushes);
  return asked.With(*push, &Asked::DeletePush);
}

std::shared_ptr<HttpCall> AnswerMethod(const Asked& asked, const std::string& method, const Json& params) {
  if (method == "SendMessage") return asked.With(params, &Asked::Send);
  if (method == "SendStreamingMessage") return asked.With(params, &Asked::Stream);
  if (method == "GetTask") return asked.With(params, &Asked::Get);
  if (method == "ListTasks") return asked.With(params, &Asked::List);
  if (method == "CancelTask") return asked.With(params, &Asked::Cancel);
  if (method == "SubscribeToTask") return asked.With(params, &Asked::Subscribe);
  if (method == "GetExtendedAgentCard") return asked.Refuse(NoExtendedCard());
  if (method == "CreateTaskPushNotificationConfig") return asked.With(params, &Asked::CreatePush);
  if (method == "GetTaskPushNotificationConfig") return asked.With(params, &Asked::GetPush);
  if (method == "ListTaskPushNotificationConfigs") return asked.With(params, &Asked::ListPushes);
  if (method == "DeleteTaskPushNotificationConfig") return asked.With(params, &Asked::DeletePush);
  return asked.Refuse(
      A2aStatus(A2aReason::kMethodNotFound, absl::StrCat("there is no method ", Quoted(method))));
}

std::shared_ptr<HttpCall> AnswerRpc(Asked asked, const HttpRequest& http) {
  asked.voice.rpc = true;
  if (absl::Status s = CheckPost(http); !s.ok()) return asked.Refuse(s);
  const absl::StatusOr<Json> body = ParseA2aJson(http.body);
  if (!body.ok()) return asked.Refuse(body.status());
  const auto has = [&](const char* key) { return body->contains(key); };
  const bool id = body->is_object() && has("id") && ((*body)["id"].is_string() || (*body)["id"].is_number());
  if (id) asked.voice.id = (*body)["id"];
  if (!id || !has("jsonrpc") || (*body)["jsonrpc"] != "2.0" || !has("method") ||
      !(*body)["method"].is_string()) {
    return asked.Refuse(A2aStatus(A2aReason::kInvalidRequest,
                                  "the body is no JSON-RPC 2.0 request with an id, one at a time"));
  }
  const std::string method = (*body)["method"].get<std::string>();
  const Json params = body->value("params", Json::object());
  static const std::set<std::string> kLegacy = {"message/send",
                                                "tasks/get",
                                                "tasks/cancel",
                                                "tasks/pushNotificationConfig/set",
                                                "tasks/pushNotificationConfig/get",
                                                "tasks/pushNotificationConfig/list",
                                                "tasks/pushNotificationConfig/delete"};
  const bool legacy = kLegacy.contains(method);
  if (absl::Status s = CheckA2aVersion(http.Header("a2a-version"), legacy); !s.ok()) return asked.Refuse(s);
  return legacy ? AnswerLegacy(asked, method, params) : AnswerMethod(asked, method, params);
}

// --- HTTP+JSON

std::shared_ptr<HttpCall> AnswerMessage(
    const Asked& asked, const HttpRequest& http,
    std::shared_ptr<HttpCall> (Asked::*answer)(const a2a::SendMessageRequest&) const) {
  const absl::StatusOr<Json> body = ParseA2aJson(http.body);
  if (!body.ok()) return asked.Refuse(body.status());
  return asked.With(*body, answer);
}

// Of /a2a/tasks/ID/pushNotificationConfigs, which begins at `at`, and of one of these.
std::shared_ptr<HttpCall> AnswerPush(const Asked& asked, const HttpRequest& http, const std::string& argument,
                                     size_t at) {
  std::string name = argument.substr(at + sizeof kPushes - 1);
  const bool one = name.starts_with('/') && name.size() > 1;
  if (!name.empty() && !one)
    return asked.Refuse(A2aStatus(A2aReason::kMethodNotFound, "there is no such path of a task"));
  if (one) name.erase(0, 1);
  absl::StatusOr<Json> json = QueryJson(http.query);
  if (json.ok() && !one && http.method == "POST") json = ParseA2aJson(http.body);
  if (!json.ok()) return asked.Refuse(json.status());
  if (!json->is_object()) return asked.Refuse(A2aStatus(A2aReason::kInvalidParams, "the body is no object"));
  (*json)["taskId"] = argument.substr(0, at);
  if (one) (*json)["id"] = name;
  const bool get = http.method == "GET" || http.method == "HEAD";
  if (!one && http.method == "POST") return asked.With(*json, &Asked::CreatePush);
  if (!one && get) return asked.With(*json, &Asked::ListPushes);
  if (one && get) return asked.With(*json, &Asked::GetPush);
  if (one && http.method == "DELETE") return asked.With(*json, &Asked::DeletePush);
  return asked.Refuse(A2aStatus(A2aReason::kMethodNotFound,
                                "who is told is made with POST and listed with GET; one of them is asked for "
                                "with GET and deleted with DELETE"));
}

// Of /a2a/tasks/ARGUMENT.
std::shared_ptr<HttpCall> AnswerTask(const Asked& asked, const HttpRequest& http,
                                     const std::string& argument) {
  if (const size_t at = argument.find(kPushes); at != argument.npos)
    return AnswerPush(asked, http, argument, at);
  const size_t colon = std::min(argument.rfind(':'), argument.size());
  const std::string verb = argument.substr(colon);
  const bool post = http.method == "POST", get = http.method == "GET" || http.method == "HEAD";
  absl::StatusOr<Json> json = QueryJson(http.query);
  if (!json.ok()) return asked.Refuse(json.status());
  (*json)["id"] = argument.substr(0, colon);
  if (verb == ":subscribe" && (post || get)) return asked.With(*json, &Asked::Subscribe);
  if (verb == ":cancel" && post) return asked.With(*json, &Asked::Cancel);
  if (verb.empty() && get) return asked.With(*json, &Asked::Get);
  return asked.Refuse(
      A2aStatus(A2aReason::kMethodNotFound,
                absl::StrCat("a task is asked for with GET, POST :cancel or GET :subscribe, not ",
                             Quoted(http.method), " ", Quoted(verb))));
}

}  // namespace

A2aDoor::A2aDoor(std::unique_ptr<A2aHandlers> handlers, std::unique_ptr<grpc::Service> service)
    : handlers_(std::move(handlers)), service_(std::move(service)) {}
A2aDoor::~A2aDoor() = default;

std::unique_ptr<A2aDoor> A2aDoor::Make(A2aOptions options, TaskEngine* engine) {
  Access* const access = options.access;
  std::unique_ptr<A2aHandlers> handlers = A2aHandlers::Make(std::move(options), engine);
  std::unique_ptr<grpc::Service> service = MakeA2aService(*handlers, access);
  return std::unique_ptr<A2aDoor>(new A2aDoor(std::move(handlers), std::move(service)));
}

grpc::Service* A2aDoor::service() { return service_.get(); }
void A2aDoor::EndWaiting(const absl::Status& status) { handlers_->EndWaiting(status); }
void A2aDoor::EndAll(const absl::Status& status) { handlers_->EndAll(status); }
int64_t A2aDoor::waiting() const { return handlers_->waiting(); }

void A2aDoor::AddRoutes(HttpRoutes& routes, const HttpDoorFacts& door) {
  routes.Page(
      "GET", "/.well-known/agent-card.json",
      [this, tls = door.tls](const RoutedRequest& request) {
        HttpAnswer answer;
        answer.body = JsonText(A2aJson(handlers_->Card(
                          absl::StrCat(tls ? "https://" : "http://", request.http.Header("host"))))) +
                      "\n";
        return answer;
      },
      RouteNeeds::kNothing);
  const auto add = [&](const char* method, const char* path, auto answer) {
    routes.Call(
        method, path,
        [this, answer](RoutedRequest request, std::shared_ptr<HttpExchange> exchange) {
          const bool extended = WantsA2aExtension(request.http.Header("a2a-extensions"));
          Asked asked{*handlers_, {request.caller, extended}, {}, std::move(exchange)};
          asked.voice.extended = extended;
          return answer(std::move(asked), request);
        },
        RouteNeeds::kTasks);
  };
  using Answered = std::shared_ptr<HttpCall>;
  // What HTTP+JSON has in common.
  const auto rest = [](auto answer) {
    return [answer](Asked asked, const RoutedRequest& request) -> Answered {
      absl::Status s = CheckA2aVersion(request.http.Header("a2a-version"), false);
      if (s.ok() && request.http.method == "POST") s = CheckPost(request.http);
      return s.ok() ? answer(asked, request) : asked.Refuse(s);
    };
  };
  add("POST", "/a2a",
      [](Asked asked, const RoutedRequest& r) -> Answered { return AnswerRpc(std::move(asked), r.http); });
  add("POST", "/a2a/message:send", rest([](const Asked& asked, const RoutedRequest& r) -> Answered {
        return AnswerMessage(asked, r.http, &Asked::Send);
      }));
  add("POST", "/a2a/message:stream", rest([](const Asked& asked, const RoutedRequest& r) -> Answered {
        return AnswerMessage(asked, r.http, &Asked::Stream);
      }));
  add("GET", "/a2a/tasks", rest([](const Asked& asked, const RoutedRequest& r) -> Answered {
        const absl::StatusOr<Json> query = QueryJson(r.http.query);
        return query.ok() ? asked.With(*query, &Asked::List) : asked.Refuse(query.status());
      }));
  for (const char* method : {"GET", "POST", "DELETE"}) {
    add(method, "/a2a/tasks/*", rest([](const Asked& asked, const RoutedRequest& r) -> Answered {
          return AnswerTask(asked, r.http, r.argument);
        }));
  }
  add("GET", "/a2a/extendedAgentCard", rest([](const Asked& asked, const RoutedRequest&) -> Answered {
        return asked.Refuse(NoExtendedCard());
      }));
}

}  // namespace omni
