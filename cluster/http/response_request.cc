#include "cluster/http/response_request.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/http/openai_fields.h"
#include "cluster/http/response_input.h"
#include "engine/text/prompt.h"

namespace omni {
namespace {

using openai::Bad;
using openai::Fields;
using openai::Json;

constexpr size_t kMostPairs = 16, kLongestKey = 64, kLongestValue = 512;  // of metadata, bytes
constexpr char kWithLogprobs[] = "message.output_text.logprobs";          // in 'include'

// OpenAI's limits are in characters; here a character has up to four bytes.
Json ReadMetadata(Fields& fields) {
  const Json* metadata = fields.Find("metadata");
  if (metadata == nullptr) return Json::object();
  bool good = metadata->is_object() && metadata->size() <= kMostPairs;
  for (auto it = metadata->begin(); good && it != metadata->end(); ++it) {
    good = it.key().size() <= 4 * kLongestKey && it->is_string() &&
           it->get_ref<const std::string&>().size() <= 4 * kLongestValue;
  }
  if (good) return *metadata;
  fields.Fail(Bad("metadata", absl::StrCat("'metadata' must be an object of up to ", kMostPairs,
                                           " texts, their names of up to ", kLongestKey,
                                           " characters and they themselves of up to ", kLongestValue)));
  return Json::object();
}

// Whether it asks for the tokens' probabilities; all else that it may ask for is never there.
bool ReadInclude(Fields& fields) {
  const Json* include = fields.Find("include");
  if (include == nullptr) return false;
  const bool good = include->is_array() && std::all_of(include->begin(), include->end(),
                                                       [](const Json& one) { return one.is_string(); });
  if (!good) fields.Fail(Bad("include", "'include' must be a list of texts"));
  return good && std::find(include->begin(), include->end(), kWithLogprobs) != include->end();
}

// What a response could have and this model has not.
void RefuseOthers(Fields& fields) {
  fields.Refuse("background", false, "is not there: the answer comes at once or as a stream");
  fields.Refuse("conversation", nullptr, "is not there; 'previous_response_id' is");
  fields.Refuse("prompt", nullptr, "is not there: no prompts are stored here");
  fields.Refuse("truncation", "disabled", "is not there: send what fits");
  const Json* text = fields.Find("text");
  if (text != nullptr && !text->is_object()) fields.Fail(Bad("text", "'text' must be an object"));
  if (text == nullptr || !text->is_object()) return;
  const auto format = text->find("format");
  if (format != text->end() && !format->is_null()) fields.Fail(openai::CheckFormat(*format, "text.format"));
}

absl::Status ReadMessages(Fields& fields, const FindResponse& find, std::vector<ChatMessage>& messages) {
  const std::string previous = fields.Text("previous_response_id");
  if (!previous.empty()) {
    const auto before = find(previous);
    if (before == nullptr) return NoSuchResponse("previous_response_id", previous);
    messages = *before;
  }
  const Json* input = fields.Find("input");
  if (input == nullptr && previous.empty())
    return Bad("input", "'input' is missing", "missing_required_parameter");
  if (input == nullptr) return absl::OkStatus();
  return openai::ReadInput(*input, messages);
}

}  // namespace

absl::Status NoSuchResponse(std::string_view param, const std::string& id) {
  return openai::NotThere(param,
                          absl::StrCat("there is no response ", Quoted(id),
                                       " here: it was not to be stored, or was deleted, or is too long ago"),
                          param.empty() ? "response_not_found" : "previous_response_not_found");
}

absl::StatusOr<ResponseRequest> ReadResponse(std::string_view body, const ServedModel& model, uint64_t seed,
                                             const FindResponse& find) {
  const absl::StatusOr<Json> json = openai::ReadBody(body);
  if (!json.ok()) return json.status();
  Fields fields(*json);
  ResponseRequest request;
  openai::ReadModel(fields, model);
  request.stream = fields.Bool("stream", false);
  request.store = fields.Bool("store", true);
  const std::string instructions = fields.Text("instructions");
  openai::ReadSampling(fields, seed, request.generate);
  const auto max_tokens = fields.Integer("max_output_tokens", 1, model.most_tokens);
  request.bounded = max_tokens.has_value();
  request.generate.max_tokens = max_tokens.value_or(std::min(kChatTokens, model.most_tokens));
  request.generate.alternatives =
      static_cast<int32_t>(fields.Integer("top_logprobs", 0, kMostAlternatives).value_or(0));
  request.logprobs = ReadInclude(fields) || request.generate.alternatives > 0;
  if (request.logprobs) {
    fields.Fail(
        openai::CheckTold("max_output_tokens", request.generate.max_tokens, request.generate.alternatives));
  }
  openai::ReadTools(fields);
  const bool parallel = fields.Bool("parallel_tool_calls", true);
  RefuseOthers(fields);
  Json metadata = ReadMetadata(fields);
  fields.Fail(ReadMessages(fields, find, request.messages));
  if (!fields.status().ok()) return fields.status();

  const auto or_null = [](const Json* value) { return value == nullptr ? Json(nullptr) : *value; };
  const Json* choice = fields.Find("tool_choice");
  request.echo = {{"instructions", or_null(fields.Find("instructions"))},
                  {"max_output_tokens", or_null(fields.Find("max_output_tokens"))},
                  {"metadata", std::move(metadata)},
                  {"parallel_tool_calls", parallel},
                  {"previous_response_id", or_null(fields.Find("previous_response_id"))},
                  {"temperature", request.generate.sampler.temperature},
                  {"tool_choice", choice == nullptr ? Json("auto") : *choice},
                  {"top_logprobs", request.generate.alternatives},
                  {"top_p", request.generate.sampler.top_p}};
  std::vector<ChatMessage> messages;
  if (!instructions.empty()) messages.push_back({"system", instructions});
  messages.insert(messages.end(), request.messages.begin(), request.messages.end());
  request.generate.prompt = PromptTokens(*model.tokenizer, model.chat.Render(messages));
  const std::vector<std::string>& ends = model.chat.stops();
  request.generate.stops.insert(request.generate.stops.end(), ends.begin(), ends.end());
  if (absl::Status s = openai::CheckLength(model, "input", request.generate.prompt.size()); !s.ok()) return s;
  return request;
}

}  // namespace omni
