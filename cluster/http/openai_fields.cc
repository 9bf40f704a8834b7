#include "cluster/http/openai_fields.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <absl/strings/cord.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "engine/text/prompt.h"
#include "engine/text/sampler.h"
#include "engine/text/stop_limits.h"

namespace omni {
namespace {

constexpr char kParam[] = "omni/param", kCode[] = "omni/code";

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

absl::Status WithNames(absl::Status status, std::string_view param, std::string_view code) {
  status.SetPayload(kParam, absl::Cord(View(param)));
  if (!code.empty()) status.SetPayload(kCode, absl::Cord(View(code)));
  return status;
}

std::string Payload(const absl::Status& status, const char* name) {
  const auto payload = status.GetPayload(name);
  return payload.has_value() ? std::string(*payload) : std::string();
}

}  // namespace

std::string ErrorParam(const absl::Status& status) { return Payload(status, kParam); }
std::string ErrorCode(const absl::Status& status) { return Payload(status, kCode); }

namespace openai {
namespace {

constexpr size_t kMaxRequestDepth = 64;  // tools bring schemas of their own

}  // namespace

absl::Status Bad(std::string_view param, std::string_view message, std::string_view code) {
  return WithNames(absl::InvalidArgumentError(View(message)), param, code);
}

absl::Status NotThere(std::string_view param, std::string_view message, std::string_view code) {
  return WithNames(absl::NotFoundError(View(message)), param, code);
}

absl::StatusOr<Json> ReadBody(std::string_view body) {
  absl::StatusOr<Json> json = ParseJson<Json>(body, kMaxRequestDepth);
  if (!json.ok()) return absl::InvalidArgumentError(absl::StrCat("the body ", json.status().message()));
  if (!json->is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
  return json;
}

void Fields::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

const Json* Fields::Find(const char* name) const {
  const auto it = json_.find(name);
  return it == json_.end() || it->is_null() ? nullptr : &*it;
}

bool Fields::Bool(const char* name, bool otherwise) {
  const Json* value = Find(name);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) Fail(Bad(name, absl::StrCat("'", name, "' must be true or false")));
  return value->is_boolean() ? value->get<bool>() : otherwise;
}

std::optional<int64_t> Fields::Integer(const char* name, int64_t low, int64_t high) {
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

float Fields::Real(const char* name, float otherwise, Range<float> range) {
  const Json* value = Find(name);
  if (value == nullptr) return otherwise;
  const double x = value->is_number() ? value->get<double>() : NAN;
  if (!value->is_number() || !range.Has(static_cast<float>(x))) {
    Fail(Bad(name, absl::StrCat("'", name, "' must be a number ", range.Text())));
    return otherwise;
  }
  return static_cast<float>(x);
}

std::string Fields::Text(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return {};
  if (!value->is_string()) Fail(Bad(name, absl::StrCat("'", name, "' must be a text")));
  return value->is_string() ? value->get<std::string>() : std::string();
}

void Fields::Refuse(const char* name, const Json& nothing, std::string_view why) {
  const Json* value = Find(name);
  if (value != nullptr && *value != nothing) Fail(Bad(name, absl::StrCat("'", name, "': ", View(why))));
}

void ReadModel(Fields& fields, const ServedModel& model) {
  const std::string name = fields.Text("model");
  if (fields.Find("model") == nullptr || !fields.status().ok() || name == model.name) return;
  fields.Fail(NotThere("model",
                       absl::StrCat("the model ", Quoted(name), " is not served here; '", model.name, "' is"),
                       "model_not_found"));
}

namespace {

void ReadStops(Fields& fields, std::vector<std::string>& stops) {
  const Json* stop = fields.Find("stop");
  if (stop == nullptr) return;
  const auto add = [&](const Json& text) {
    const bool good = text.is_string() && !text.get_ref<const std::string&>().empty() &&
                      text.get_ref<const std::string&>().size() <= kMostStopStringBytes;
    if (good) stops.push_back(text.get<std::string>());
    return good;
  };
  bool good = stop->is_array() ? stop->size() <= kMostStopStrings : add(*stop);
  if (stop->is_array() && good) good = std::all_of(stop->begin(), stop->end(), add);
  if (!good) {
    fields.Fail(Bad(
        "stop", absl::StrCat("'stop' must be a text or a list of up to ", kMostStopStrings,
                             " texts, none of them empty or longer than ", kMostStopStringBytes, " bytes")));
  }
}

}  // namespace

void ReadSampling(Fields& fields, uint64_t seed, GenerateRequest& generate) {
  SamplerSettings& sampler = generate.sampler;
  sampler.temperature = fields.Real("temperature", 1, kTemperatures);
  sampler.top_p = fields.Real("top_p", 1, kTopPs);
  sampler.top_k = static_cast<int32_t>(fields.Integer("top_k", kTopKs.low, kTopKs.high).value_or(0));
  sampler.min_p = fields.Real("min_p", 0, kMinPs);
  sampler.repetition_penalty = fields.Real("repeat_penalty", 1, kRepetitionPenalties);
  sampler.seed = static_cast<uint64_t>(
      fields.Integer("seed", INT64_MIN, INT64_MAX).value_or(static_cast<int64_t>(seed)));
  ReadStops(fields, generate.stops);
  generate.stop_at_end_of_text = !fields.Bool("ignore_eos", false);
  if (const std::string text = fields.Text("perspectives"); !text.empty() && text != "off") {
    const absl::StatusOr<PerspectiveSettings> read = ParsePerspectives(text);
    if (read.ok()) {
      generate.perspectives = *read;
    } else {
      fields.Fail(Bad("perspectives", std::string(read.status().message())));
    }
  }
  generate.safety.polytope = fields.Text("safety");
  generate.adapter.name = fields.Text("adapter");
  generate.context_memory = fields.Bool("context_memory", false);
  generate.memory.scope = fields.Text("memory");
  constexpr std::string_view kPenalty = "is not there; 'repeat_penalty' is";
  for (const char* name : {"presence_penalty", "frequency_penalty"}) {
    if (fields.Real(name, 0, {-2, 2}) != 0) fields.Refuse(name, 0, kPenalty);
  }
  fields.Refuse("logit_bias", Json::object(), "is not there; leave it out");
}

void ReadTools(Fields& fields) {
  for (const char* name : {"tools", "functions"}) {
    const Json* tools = fields.Find(name);
    if (tools != nullptr && !tools->is_array())
      fields.Fail(Bad(name, absl::StrCat("'", name, "' must be a list")));
  }
  for (const char* name : {"tool_choice", "function_call"}) {
    const Json* choice = fields.Find(name);
    if (choice == nullptr || *choice == "none" || *choice == "auto") continue;
    const auto mode = choice->is_object() ? choice->find("mode") : choice->end();
    if (choice->is_object() && mode != choice->end() && *mode == "auto") continue;  // of several tools
    fields.Fail(Bad(name, absl::StrCat("'", name, "' must be none or auto: this model calls no tools")));
  }
}

absl::Status CheckFormat(const Json& format, std::string_view param) {
  const auto type = format.is_object() ? format.find("type") : format.end();
  if (format.is_object() && type != format.end() && *type == "text") return absl::OkStatus();
  return Bad(param,
             absl::StrCat("'", View(param), "' must be of type text: answers are not bound to a form"));
}

std::string TextOf(const Json& item, const char* name) {
  const auto it = item.find(name);
  return it != item.end() && it->is_string() ? it->get<std::string>() : std::string();
}

absl::Status ReadContent(const Json& content, const std::string& where,
                         std::initializer_list<const char*> kinds, std::string& text) {
  if (content.is_string()) {
    text += content.get_ref<const std::string&>();
    return absl::OkStatus();
  }
  if (!content.is_array()) return Bad(where, absl::StrCat("'", where, "' must be a text or a list of parts"));
  for (size_t i = 0; i < content.size(); ++i) {
    const Json& part = content[i];
    const std::string type = part.is_object() ? TextOf(part, "type") : "";
    const bool refusal = type == "refusal";
    const bool known = refusal || std::find(kinds.begin(), kinds.end(), type) != kinds.end();
    const auto said = known ? part.find(refusal ? "refusal" : "text") : part.end();
    if (!known || said == part.end() || !said->is_string()) {
      const std::string here = absl::StrCat(where, "[", i, "]");
      return Bad(here, absl::StrCat("'", here, "' must be a text, of type ", absl::StrJoin(kinds, " or "),
                                    ": this model reads nothing else"));
    }
    text += said->get_ref<const std::string&>();
  }
  return absl::OkStatus();
}

std::string RoleOf(const Json& message) {
  const std::string role = TextOf(message, "role");
  if (role == "developer") return "system";
  if (role == "function") return "tool";
  return role == "system" || role == "user" || role == "assistant" || role == "tool" ? role : "";
}

std::string CallText(const std::string& name, const std::string& arguments) {
  return absl::StrCat(name, "(", arguments, ")");
}

namespace {

bool IsTokens(const Json& json) {
  return json.is_array() && !json.empty() &&
         std::all_of(json.begin(), json.end(), [](const Json& item) { return item.is_number(); });
}

absl::StatusOr<std::vector<TokenId>> ReadTokens(const Json& json, std::string_view param,
                                                const Tokenizer& tokenizer) {
  if (json.is_string()) return PromptTokens(tokenizer, json.get_ref<const std::string&>());
  if (!IsTokens(json))
    return Bad(param, absl::StrCat("'", View(param), "' must be texts or lists of tokens, or one of them"));
  std::vector<TokenId> tokens;
  tokens.reserve(json.size());
  for (const Json& item : json) {
    const bool fits = item.is_number_integer() && item >= 0 && item < tokenizer.vocab();
    if (!fits) {
      return Bad(param,
                 absl::StrCat("'", View(param), "' has a token that is not below ", tokenizer.vocab()));
    }
    tokens.push_back(TokenId(item.get<int32_t>()));
  }
  return tokens;
}

}  // namespace

absl::StatusOr<std::vector<std::vector<TokenId>>> ReadTexts(const Json& json, std::string_view param,
                                                            const Tokenizer& tokenizer, size_t most) {
  std::vector<std::vector<TokenId>> texts;
  const bool several = json.is_array() && !json.empty() && !json.front().is_number();
  if (several && json.size() > most)
    return Bad(param,
               absl::StrCat("'", View(param), "' has ", json.size(), " texts; ", most, " may be asked"));
  const auto add = [&](const Json& item) {
    absl::StatusOr<std::vector<TokenId>> read = ReadTokens(item, param, tokenizer);
    if (read.ok()) texts.push_back(*std::move(read));
    return read.status();
  };
  if (!several) {
    if (absl::Status s = add(json); !s.ok()) return s;
    return texts;
  }
  for (const Json& item : json) {
    if (absl::Status s = add(item); !s.ok()) return s;
  }
  return texts;
}

absl::Status CheckTold(std::string_view param, int64_t tokens, int32_t alternatives) {
  constexpr int64_t kMostTold = 1 << 17;  // about 100 MB while they are put into words
  const int64_t most = kMostTold / (1 + alternatives);
  if (tokens <= most) return absl::OkStatus();
  return Bad(param, absl::StrCat("'", View(param), "' of all answers together must be at most ", most,
                                 " where probabilities are told, with ", alternatives,
                                 " alternatives to each token"));
}

absl::Status CheckLength(const ServedModel& model, std::string_view param, size_t prompt_tokens) {
  if (static_cast<int64_t>(prompt_tokens) < model.max_context) return absl::OkStatus();
  return Bad(
      param,
      absl::StrCat("the prompt has ", prompt_tokens, " tokens, and prompt and answer together may have ",
                   model.max_context, "; shorten it"),
      "context_length_exceeded");
}

}  // namespace openai
}  // namespace omni
