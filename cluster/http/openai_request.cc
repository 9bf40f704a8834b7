#include "cluster/http/openai_request.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include <absl/strings/cord.h>
#include <absl/strings/str_cat.h>

#include "engine/base/json.h"
#include "engine/text/prompt.h"
#include "engine/text/sampler.h"

namespace omni {
namespace {

using Json = nlohmann::json;

constexpr char kParam[] = "omni/param", kCode[] = "omni/code";
constexpr size_t kMaxRequestDepth = 64;  // tools bring schemas of their own
constexpr size_t kMostStops = 16, kLongestStop = 1024, kMostMessages = 4096;
constexpr int64_t kMostTokens = int64_t{1} << 40;

absl::Status Bad(std::string_view param, std::string_view message, std::string_view code = "") {
  absl::Status status = absl::InvalidArgumentError(absl::string_view(message.data(), message.size()));
  status.SetPayload(kParam, absl::Cord(absl::string_view(param.data(), param.size())));
  if (!code.empty()) status.SetPayload(kCode, absl::Cord(absl::string_view(code.data(), code.size())));
  return status;
}

// The fields of a request; the first that is wrong is remembered.
class Fields {
 public:
  explicit Fields(const Json& json) : json_(json) {}
  const absl::Status& status() const { return status_; }
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  // The field, or null where it is missing or null.
  const Json* Find(const char* name) const {
    const auto it = json_.find(name);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  bool Bool(const char* name, bool otherwise) {
    const Json* value = Find(name);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) Fail(Bad(name, absl::StrCat("'", name, "' must be true or false")));
    return value->is_boolean() ? value->get<bool>() : otherwise;
  }
  std::optional<int64_t> Integer(const char* name, int64_t low, int64_t high) {
    const Json* value = Find(name);
    if (value == nullptr) return std::nullopt;
    const bool fits = value->is_number_integer() &&
                      (!value->is_number_unsigned() || value->get<uint64_t>() <= uint64_t{INT64_MAX});
    const int64_t n = fits ? value->get<int64_t>() : 0;
    if (!fits || n < low || n > high) {
      Fail(Bad(name, absl::StrCat("'", name, "' must be a whole number from ", low, " to ", high)));
      return std::nullopt;
    }
    return n;
  }
  float Real(const char* name, float otherwise, Range<float> range) {
    const Json* value = Find(name);
    if (value == nullptr) return otherwise;
    const double x = value->is_number() ? value->get<double>() : NAN;
    if (!value->is_number() || !range.Has(static_cast<float>(x))) {
      Fail(Bad(name, absl::StrCat("'", name, "' must be a number ", range.Text())));
      return otherwise;
    }
    return static_cast<float>(x);
  }
  // Fields that ask for what is not there; asking for nothing by them is allowed.
  void Refuse(const char* name, const Json& nothing, std::string_view why) {
    const Json* value = Find(name);
    if (value != nullptr && *value != nothing)
      Fail(Bad(name, absl::StrCat("'", name, "': ", absl::string_view(why.data(), why.size()))));
  }

 private:
  const Json& json_;
  absl::Status status_;
};

void ReadStops(Fields& fields, std::vector<std::string>& stops) {
  const Json* stop = fields.Find("stop");
  if (stop == nullptr) return;
  const auto add = [&](const Json& text) {
    const bool good = text.is_string() && !text.get_ref<const std::string&>().empty() &&
                      text.get_ref<const std::string&>().size() <= kLongestStop;
    if (good) stops.push_back(text.get<std::string>());
    return good;
  };
  bool good = stop->is_array() ? stop->size() <= kMostStops : add(*stop);
  if (stop->is_array() && good) good = std::all_of(stop->begin(), stop->end(), add);
  if (!good) {
    fields.Fail(
        Bad("stop", absl::StrCat("'stop' must be a text or a list of up to ", kMostStops,
                                 " texts, none of them empty or longer than ", kLongestStop, " bytes")));
  }
}

// What both kinds of request have.
void ReadCommon(Fields& fields, const ServedModel& model, uint64_t seed, CompletionRequest& request) {
  if (const Json* name = fields.Find("model"); name != nullptr) {
    if (!name->is_string()) {
      fields.Fail(Bad("model", "'model' must be a text"));
    } else if (*name != model.name) {
      absl::Status unknown =
          absl::NotFoundError(absl::StrCat("the model ", Quoted(name->get_ref<const std::string&>()),
                                           " is not served here; '", model.name, "' is"));
      unknown.SetPayload(kParam, absl::Cord("model"));
      unknown.SetPayload(kCode, absl::Cord("model_not_found"));
      fields.Fail(std::move(unknown));
    }
  }
  request.stream = fields.Bool("stream", false);
  if (const Json* options = fields.Find("stream_options"); options != nullptr) {
    if (!options->is_object() || !request.stream) {
      fields.Fail(Bad("stream_options", "'stream_options' must be an object, and goes with 'stream': true"));
    } else {
      Fields inside(*options);
      request.include_usage = inside.Bool("include_usage", false);
      if (!inside.status().ok())
        fields.Fail(Bad("stream_options.include_usage", "'include_usage' must be true or false"));
    }
  }
  if (fields.Integer("n", 1, INT32_MAX).value_or(1) != 1)
    fields.Fail(Bad("n", "'n' must be 1: ask again for another answer, with another seed"));
  SamplerSettings& sampler = request.generate.sampler;
  sampler.temperature = fields.Real("temperature", 1, kTemperatures);
  sampler.top_p = fields.Real("top_p", 1, kTopPs);
  sampler.top_k = static_cast<int32_t>(fields.Integer("top_k", kTopKs.low, kTopKs.high).value_or(0));
  sampler.min_p = fields.Real("min_p", 0, kMinPs);
  sampler.repetition_penalty = fields.Real("repeat_penalty", 1, kRepetitionPenalties);
  sampler.seed = static_cast<uint64_t>(
      fields.Integer("seed", INT64_MIN, INT64_MAX).value_or(static_cast<int64_t>(seed)));
  ReadStops(fields, request.generate.stops);
  request.generate.stop_at_end_of_text = !fields.Bool("ignore_eos", false);
  constexpr std::string_view kPenalty = "is not there; 'repeat_penalty' is";
  for (const char* name : {"presence_penalty", "frequency_penalty"}) {
    if (fields.Real(name, 0, {-2, 2}) != 0) fields.Refuse(name, 0, kPenalty);
  }
  fields.Refuse("logit_bias", Json::object(), "is not there; leave it out");
}

void ReadMaxTokens(Fields& fields, int64_t otherwise, CompletionRequest& request) {
  const auto old_name = fields.Integer("max_tokens", 1, kMostTokens);
  const auto new_name = fields.Integer("max_completion_tokens", 1, kMostTokens);
  if (old_name.has_value() && new_name.has_value() && *old_name != *new_name)
    fields.Fail(Bad("max_tokens", "'max_tokens' and 'max_completion_tokens' differ; leave one out"));
  request.generate.max_tokens = new_name.has_value() ? *new_name : old_name.value_or(otherwise);
}

absl::Status CheckLength(const ServedModel& model, std::string_view param, const CompletionRequest& request) {
  const size_t prompt = request.generate.prompt.size();
  if (static_cast<int64_t>(prompt) < model.max_context) return absl::OkStatus();
  return Bad(param,
             absl::StrCat("the prompt has ", prompt, " tokens, and prompt and answer together may have ",
                          model.max_context, "; shorten it"),
             "context_length_exceeded");
}

bool IsTokens(const Json& json) {
  return json.is_array() && !json.empty() &&
         std::all_of(json.begin(), json.end(), [](const Json& item) { return item.is_number(); });
}

absl::Status ReadPrompt(const Json* prompt, const ServedModel& model, std::vector<TokenId>& tokens) {
  if (prompt == nullptr) return Bad("prompt", "'prompt' is missing");
  // A list of one is that one.
  if (prompt->is_array() && prompt->size() == 1 && !prompt->front().is_number()) prompt = &prompt->front();
  if (prompt->is_string()) {
    tokens = PromptTokens(*model.tokenizer, prompt->get_ref<const std::string&>());
    return absl::OkStatus();
  }
  if (!IsTokens(*prompt)) {
    return Bad("prompt", "'prompt' must be one text or one list of tokens; ask for several one by one");
  }
  tokens.reserve(prompt->size());
  for (const Json& item : *prompt) {
    const int64_t vocab = model.tokenizer->vocab();
    const bool fits = item.is_number_integer() && item >= 0 && item < vocab;
    if (!fits) return Bad("prompt", absl::StrCat("'prompt' has a token that is not below ", vocab));
    tokens.push_back(TokenId(item.get<int32_t>()));
  }
  return absl::OkStatus();
}

// A text, or a list of parts of which all are text.
std::optional<std::string> ReadContent(const Json& content) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return std::nullopt;
  std::string text;
  for (const Json& part : content) {
    if (!part.is_object()) return std::nullopt;
    const auto type = part.find("type"), piece = part.find("text");
    if (type == part.end() || *type != "text" || piece == part.end() || !piece->is_string())
      return std::nullopt;
    text += piece->get_ref<const std::string&>();
  }
  return text;
}

absl::Status ReadMessages(const Json* messages, std::vector<ChatMessage>& out) {
  if (messages == nullptr || !messages->is_array() || messages->empty() || messages->size() > kMostMessages)
    return Bad("messages", absl::StrCat("'messages' must be a list of 1 to ", kMostMessages, " messages"));
  static const std::pair<const char*, const char*> kRoles[] = {
      {"system", "system"},       {"developer", "system"}, {"user", "user"},
      {"assistant", "assistant"}, {"tool", "tool"},        {"function", "tool"}};
  for (size_t i = 0; i < messages->size(); ++i) {
    const Json& message = (*messages)[i];
    const std::string where = absl::StrCat("messages[", i, "]");
    if (!message.is_object()) return Bad(where, absl::StrCat("'", where, "' must be an object"));
    const auto role = message.find("role");
    const auto known = std::find_if(std::begin(kRoles), std::end(kRoles), [&](const auto& known_role) {
      return role != message.end() && *role == known_role.first;
    });
    if (known == std::end(kRoles)) {
      return Bad(where + ".role",
                 absl::StrCat("'", where, ".role' must be system, developer, user, assistant or tool"));
    }
    const auto content = message.find("content");
    const bool none = content == message.end() || content->is_null();
    const bool calls = message.contains("tool_calls") || message.contains("function_call");
    std::optional<std::string> text;
    if (!none) {
      text = ReadContent(*content);
    } else if (known->second == std::string_view("assistant") && calls) {
      text = "";  // it called a tool and said nothing
    }
    if (!text.has_value()) {
      return Bad(where + ".content",
                 absl::StrCat("'", where, ".content' must be a text, or a list of parts of type text"));
    }
    out.push_back({known->second, *std::move(text)});
  }
  return absl::OkStatus();
}

// Tools are taken and not used; a client that insists on one is told.
void ReadTools(Fields& fields) {
  for (const char* name : {"tools", "functions"}) {
    const Json* tools = fields.Find(name);
    if (tools != nullptr && !tools->is_array())
      fields.Fail(Bad(name, absl::StrCat("'", name, "' must be a list")));
  }
  for (const char* name : {"tool_choice", "function_call"}) {
    const Json* choice = fields.Find(name);
    if (choice == nullptr || *choice == "none" || *choice == "auto") continue;
    fields.Fail(Bad(name, absl::StrCat("'", name, "' must be none or auto: this model calls no tools")));
  }
}

absl::StatusOr<Json> ReadBody(std::string_view body) {
  absl::StatusOr<Json> json = ParseJson<Json>(body, kMaxRequestDepth);
  if (!json.ok()) return absl::InvalidArgumentError(absl::StrCat("the body ", json.status().message()));
  if (!json->is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
  return json;
}

}  // namespace

absl::StatusOr<CompletionRequest> ReadCompletion(std::string_view body, const ServedModel& model,
                                                 uint64_t seed) {
  const absl::StatusOr<Json> json = ReadBody(body);
  if (!json.ok()) return json.status();
  Fields fields(*json);
  CompletionRequest request;
  ReadCommon(fields, model, seed, request);
  ReadMaxTokens(fields, kCompletionTokens, request);
  if (const auto logprobs = fields.Integer("logprobs", 0, 5); logprobs.has_value()) {
    request.logprobs = true;
    if (*logprobs > 0) fields.Fail(Bad("logprobs", "'logprobs' must be 0: only the chosen token's is known"));
  }
  if (fields.Integer("best_of", 1, INT32_MAX).value_or(1) != 1)
    fields.Fail(Bad("best_of", "'best_of' must be 1"));
  fields.Refuse("echo", false, "must be false; the client has the prompt");
  fields.Refuse("suffix", "", "is not there: the model only goes on");
  if (!fields.status().ok()) return fields.status();
  if (absl::Status s = ReadPrompt(fields.Find("prompt"), model, request.generate.prompt); !s.ok()) return s;
  if (absl::Status s = CheckLength(model, "prompt", request); !s.ok()) return s;
  return request;
}

absl::StatusOr<CompletionRequest> ReadChat(std::string_view body, const ServedModel& model, uint64_t seed) {
  const absl::StatusOr<Json> json = ReadBody(body);
  if (!json.ok()) return json.status();
  Fields fields(*json);
  CompletionRequest request;
  request.chat = true;
  ReadCommon(fields, model, seed, request);
  ReadMaxTokens(fields, kChatTokens, request);
  request.logprobs = fields.Bool("logprobs", false);
  if (const auto top = fields.Integer("top_logprobs", 0, 20); top.value_or(0) > 0)
    fields.Fail(Bad("top_logprobs", "'top_logprobs' must be 0: only the chosen token's is known"));
  if (const Json* format = fields.Find("response_format"); format != nullptr) {
    if (!format->is_object() || !format->contains("type") || (*format)["type"] != "text")
      fields.Fail(
          Bad("response_format", "'response_format' must be of type text: answers are not bound to a form"));
  }
  ReadTools(fields);
  std::vector<ChatMessage> messages;
  fields.Fail(ReadMessages(fields.Find("messages"), messages));
  if (!fields.status().ok()) return fields.status();
  request.generate.prompt = PromptTokens(*model.tokenizer, model.chat.Render(messages));
  const std::vector<std::string>& ends = model.chat.stops();
  request.generate.stops.insert(request.generate.stops.end(), ends.begin(), ends.end());
  if (absl::Status s = CheckLength(model, "messages", request); !s.ok()) return s;
  return request;
}

namespace {
std::string Payload(const absl::Status& status, const char* name) {
  const auto payload = status.GetPayload(name);
  return payload.has_value() ? std::string(*payload) : std::string();
}
}  // namespace

std::string ErrorParam(const absl::Status& status) { return Payload(status, kParam); }
std::string ErrorCode(const absl::Status& status) { return Payload(status, kCode); }

}  // namespace omni
