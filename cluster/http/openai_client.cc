#include "cluster/http/openai_client.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "cluster/http/sse_parser.h"
#include "engine/base/json.h"
#include "engine/base/quoted.h"

namespace omni {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr size_t kMostDepth = 64;
constexpr size_t kMostShown = 400;  // bytes of what a server says, in a message

// The member, if the value is an object that has it and it is no null.
const Json* Find(const Json& json, const char* name) {
  if (!json.is_object()) return nullptr;
  const auto it = json.find(name);
  return it == json.end() || it->is_null() ? nullptr : &*it;
}

std::string TextAt(const Json& json, const char* name) {
  const Json* value = Find(json, name);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

// What an error in OpenAI's form, or one much like it, says.
std::string ErrorText(const Json& json) {
  const Json* error = Find(json, "error");
  if (error == nullptr) return TextAt(json, "message");
  return error->is_string() ? error->get<std::string>() : TextAt(*error, "message");
}

std::string Shown(std::string text) {
  if (text.size() > kMostShown) text = text.substr(0, kMostShown) + "...";
  return text;
}

Json ToJson(const RemoteRequest& request, const std::string& model) {
  Json json = {{"model", model},
               {"max_tokens", request.max_tokens},
               {"temperature", request.sampler.temperature},
               {"top_p", request.sampler.top_p},
               {"seed", static_cast<int64_t>(request.sampler.seed)},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}}};
  if (request.sampler.top_k > 0) json["top_k"] = request.sampler.top_k;
  if (request.sampler.min_p > 0) json["min_p"] = request.sampler.min_p;
  if (request.sampler.repetition_penalty != 1) json["repeat_penalty"] = request.sampler.repetition_penalty;
  if (!request.stop_at_end_of_text) json["ignore_eos"] = true;
  if (!request.stops.empty()) json["stop"] = request.stops;
  if (!request.adapter.empty()) json["adapter"] = request.adapter;
  if (request.messages.empty()) {
    json["prompt"] = request.prompt;
    return json;
  }
  json["messages"] = Json::array();
  for (const ChatMessage& message : request.messages)
    json["messages"].push_back({{"role", message.role}, {"content", message.content}});
  return json;
}

bool IsUtf8(const Json& json) {
  try {
    json.dump();
  } catch (const Json::type_error&) {
    return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<bool> ReadAnswerEvent(std::string_view data, std::string& text, RemoteAnswer& answer) {
  if (data == "[DONE]") return false;
  const absl::StatusOr<Json> json = ParseJson<Json>(data, kMostDepth);
  if (!json.ok())
    return absl::UnavailableError(absl::StrCat("an event of the stream ", json.status().message()));
  if (!json->is_object()) return absl::UnavailableError("an event of the stream is no JSON object");
  if (Find(*json, "error") != nullptr) return absl::InternalError(Shown(ErrorText(*json)));
  if (std::string model = TextAt(*json, "model"); !model.empty()) answer.model = std::move(model);
  if (const Json* usage = Find(*json, "usage")) {
    const auto count = [&](const char* name, std::optional<int64_t>& to) {
      const Json* value = Find(*usage, name);
      if (value != nullptr && value->is_number_integer() && *value >= 0) to = value->get<int64_t>();
    };
    count("prompt_tokens", answer.prompt_tokens);
    count("completion_tokens", answer.tokens);
  }
  const Json* choices = Find(*json, "choices");
  if (choices == nullptr || !choices->is_array() || choices->empty()) return true;
  const Json& choice = choices->front();
  const Json* delta = Find(choice, "delta");
  text += delta != nullptr ? TextAt(*delta, "content") : TextAt(choice, "text");
  if (std::string reason = TextAt(choice, "finish_reason"); !reason.empty())
    answer.reason = std::move(reason);
  if (const Json* adapter = Find(choice, "adapter")) answer.adapter_hash = TextAt(*adapter, "hash");
  return true;
}

absl::StatusOr<std::unique_ptr<OpenAiClient>> OpenAiClient::Make(HttpClientOptions options,
                                                                 std::string model) {
  const std::string server = options.url;
  absl::StatusOr<std::unique_ptr<HttpClient>> http = HttpClient::Make(std::move(options));
  if (!http.ok()) return http.status();
  const std::string prefix = (*http)->url().path.empty() ? "/v1" : "";
  return std::unique_ptr<OpenAiClient>(new OpenAiClient(*std::move(http), prefix, std::move(model), server));
}

absl::Status OpenAiClient::Refused(const HttpClient::Answer& answer) const {
  const absl::StatusOr<Json> json = ParseJson<Json>(answer.body, kMostDepth);
  std::string said = json.ok() ? ErrorText(*json) : "";
  if (said.empty() && !answer.body.empty() && !json.ok()) said = answer.body;
  std::string message = absl::StrCat(server_, ": HTTP ", answer.status, ": ",
                                     said.empty() ? "the server does not say why" : Shown(std::move(said)));
  switch (answer.status) {
    case 400:
    case 413:
    case 422:
      return absl::InvalidArgumentError(message);
    case 401:
      return absl::UnauthenticatedError(
          absl::StrCat(message, "; give a key that the server knows by --api-key or OMNI_API_KEY"));
    case 403:
      return absl::PermissionDeniedError(message);
    case 404:
      return absl::NotFoundError(message);
    case 429:
      return absl::ResourceExhaustedError(absl::StrCat(
          message,
          answer.retry_after.empty() ? "" : absl::StrCat("; try again in ", answer.retry_after, " s")));
    case 502:
    case 503:
    case 504:
      return absl::UnavailableError(message);
    default:
      break;
  }
  if (answer.status / 100 == 3)
    return absl::FailedPreconditionError(
        absl::StrCat(message, "; it sends its callers elsewhere: give that URL"));
  return absl::InternalError(message);
}

absl::StatusOr<std::string> OpenAiClient::Model(const HttpClient::KeepGoing& keep_going) {
  if (!model_.empty()) return model_;
  const absl::StatusOr<HttpClient::Answer> answer = http_->Get(prefix_ + "/models", keep_going);
  if (!answer.ok()) return answer.status();
  if (answer->status != 200) return Refused(*answer);
  const absl::StatusOr<Json> json = ParseJson<Json>(answer->body, kMostDepth);
  const Json* data = json.ok() ? Find(*json, "data") : nullptr;
  std::vector<std::string> names;
  if (data != nullptr && data->is_array()) {
    for (const Json& item : *data) {
      if (std::string name = TextAt(item, "id"); !name.empty()) names.push_back(std::move(name));
    }
  }
  if (names.empty()) {
    return absl::NotFoundError(
        absl::StrCat(server_, ": what it says of its models names none; name one with -m"));
  }
  if (names.size() > 1) {
    return absl::FailedPreconditionError(
        absl::StrCat(server_, ": it has ", names.size(),
                     " models; name one with -m: ", Shown(absl::StrJoin(names, ", "))));
  }
  return model_ = names.front();
}

absl::StatusOr<std::string> OpenAiClient::Ask(const std::string& path, const std::string& json,
                                              const HttpClient::KeepGoing& keep_going) {
  absl::StatusOr<HttpClient::Answer> answer = json.empty()
                                                  ? http_->Get(prefix_ + path, keep_going)
                                                  : http_->Post(prefix_ + path, json, nullptr, keep_going);
  if (!answer.ok()) return answer.status();
  if (answer->status != 200) return Refused(*answer);
  return std::move(answer->body);
}

absl::Status OpenAiClient::Complete(const RemoteRequest& request, const OnText& on_text,
                                    RemoteAnswer& answer) {
  answer = {};
  const auto keep_going = [&] { return on_text(""); };
  const auto ended = [&](const absl::Status& status) {
    if (!absl::IsCancelled(status)) return status;
    answer.reason = "cancelled";
    return absl::OkStatus();
  };
  const absl::StatusOr<std::string> model = Model(keep_going);
  if (!model.ok()) return ended(model.status());
  answer.model = *model;
  const Json json = ToJson(request, *model);
  if (!IsUtf8(json))
    return absl::InvalidArgumentError("the text is not UTF-8, which JSON cannot carry to a server");

  SseParser events;
  absl::Status status;
  bool over = false;
  const Clock::time_point start = Clock::now();
  std::optional<Clock::time_point> first;
  const auto on_event = [&](std::string_view data) {
    std::string text;
    const absl::StatusOr<bool> more = ReadAnswerEvent(data, text, answer);
    if (!more.ok())
      status = absl::Status(more.status().code(), absl::StrCat(server_, ": ", more.status().message()));
    if (!text.empty()) {
      const Clock::time_point now = Clock::now();
      if (!first.has_value()) first = now;
      answer.first = *first - start;
      answer.rest = now - *first;
      answer.text += text;
      if (!on_text(text)) answer.reason = "cancelled";
    }
    over = !more.ok() || !*more || answer.reason == "cancelled";
    return !over;
  };
  const auto on_piece = [&](std::string_view piece) {
    if (absl::Status s = events.Push(piece, on_event); !s.ok()) status = s;
    return !over && status.ok();
  };
  const std::string path = prefix_ + (request.messages.empty() ? "/completions" : "/chat/completions");
  const absl::StatusOr<HttpClient::Answer> got = http_->Post(path, JsonText(json), on_piece, keep_going);
  if (!got.ok()) return ended(got.status());
  answer.request_id = got->request_id;
  if (got->status != 200) return Refused(*got);
  if (!status.ok()) return status;
  if (!over && answer.reason.empty()) {
    return absl::UnavailableError(
        got->body.empty()
            ? absl::StrCat(server_, ": the stream ended before the answer did")
            : absl::StrCat(server_, ": the answer is no stream of events, but ", Shown(got->content_type)));
  }
  if (!request.adapter.empty() && answer.adapter_hash.empty() && answer.reason != "cancelled") {
    return absl::FailedPreconditionError(
        absl::StrCat(server_, ": it answered without the adapter ", Quoted(request.adapter),
                     ", or does not say that it had it: it is no omni serve, or one of an older version"));
  }
  return absl::OkStatus();
}

}  // namespace omni
