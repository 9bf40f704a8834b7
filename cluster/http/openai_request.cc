#include "cluster/http/openai_request.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/http/openai_fields.h"
#include "engine/base/splitmix.h"
#include "engine/text/prompt.h"

namespace omni {
namespace {

constexpr int64_t kMostPromptTokens = 1 << 22;  // of several choices, each of which has its own

using openai::Bad;
using openai::Fields;
using openai::Json;

// What both kinds of request have; `one` is what every choice has.
void ReadCommon(Fields& fields, const ServedModel& model, uint64_t seed, CompletionRequest& request,
                GenerateRequest& one) {
  openai::ReadModel(fields, model);
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
  openai::ReadSampling(fields, seed, one);
}

void ReadMaxTokens(Fields& fields, const ServedModel& model, int64_t otherwise, GenerateRequest& one) {
  const auto old_name = fields.Integer("max_tokens", 1, model.most_tokens);
  const auto new_name = fields.Integer("max_completion_tokens", 1, model.most_tokens);
  if (old_name.has_value() && new_name.has_value() && *old_name != *new_name)
    fields.Fail(Bad("max_tokens", "'max_tokens' and 'max_completion_tokens' differ; leave one out"));
  one.max_tokens =
      new_name.has_value() ? *new_name : old_name.value_or(std::min(otherwise, model.most_tokens));
}

// `n` choices of each prompt.
absl::Status AddChoices(const ServedModel& model, std::string_view param,
                        std::vector<std::vector<TokenId>> prompts, int64_t n, const GenerateRequest& one,
                        CompletionRequest& request) {
  if (static_cast<int64_t>(prompts.size()) * n > kMostChoices) {
    return Bad("n", absl::StrCat("'n' answers to each of ", prompts.size(), " prompts are more than ",
                                 kMostChoices, "; ask for fewer"));
  }
  for (const std::vector<TokenId>& prompt : prompts) {
    if (absl::Status s = openai::CheckLength(model, param, prompt.size()); !s.ok()) return s;
    request.prompt_tokens += static_cast<int64_t>(prompt.size());
  }
  if (static_cast<int64_t>(prompts.size()) * n > 1 && request.prompt_tokens * n > kMostPromptTokens) {
    return Bad("n", absl::StrCat("'n' answers to prompts of ", request.prompt_tokens,
                                 " tokens are too much for one request; ask one by one"));
  }
  if (request.logprobs && !request.stream) {
    const int64_t tokens = static_cast<int64_t>(prompts.size()) * n * one.max_tokens;
    if (absl::Status s = openai::CheckTold("max_tokens", tokens, one.alternatives); !s.ok()) return s;
  }
  for (std::vector<TokenId>& prompt : prompts) {
    for (int64_t i = 0; i < n; ++i) {
      request.choices.push_back(one);
      request.choices.back().prompt = i + 1 == n ? std::move(prompt) : prompt;
      if (i > 0)
        request.choices.back().sampler.seed = CounterRandom(one.sampler.seed, static_cast<uint64_t>(i));
    }
  }
  return absl::OkStatus();
}

// The calls of tools that an assistant's message has, as text.
std::string ReadCalls(const Json& message) {
  std::string text;
  const auto add = [&](const Json& function) {
    if (function.is_object())
      text += openai::CallText(openai::TextOf(function, "name"), openai::TextOf(function, "arguments"));
  };
  if (const auto call = message.find("function_call"); call != message.end()) add(*call);
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || !calls->is_array()) return text;
  for (const Json& call : *calls) {
    if (call.is_object() && call.contains("function")) add(call["function"]);
  }
  return text;
}

absl::Status ReadMessages(const Json* messages, std::vector<ChatMessage>& out) {
  constexpr size_t kMost = openai::kMostMessages;
  if (messages == nullptr || !messages->is_array() || messages->empty() || messages->size() > kMost)
    return Bad("messages", absl::StrCat("'messages' must be a list of 1 to ", kMost, " messages"));
  for (size_t i = 0; i < messages->size(); ++i) {
    const Json& message = (*messages)[i];
    const std::string where = absl::StrCat("messages[", i, "]");
    if (!message.is_object()) return Bad(where, absl::StrCat("'", where, "' must be an object"));
    const std::string role = openai::RoleOf(message);
    if (role.empty()) {
      return Bad(where + ".role",
                 absl::StrCat("'", where, ".role' must be system, developer, user, assistant or tool"));
    }
    const auto content = message.find("content");
    const bool none = content == message.end() || content->is_null();
    const bool calls = message.contains("tool_calls") || message.contains("function_call");
    const bool assistant = role == "assistant";
    std::string text;
    if (none && !(assistant && calls))  // who calls a tool may say nothing
      return Bad(where + ".content", absl::StrCat("'", where, ".content' is missing"));
    if (!none) {
      const absl::Status read = openai::ReadContent(*content, where + ".content", {"text"}, text);
      if (!read.ok()) return read;
    }
    if (assistant) text += ReadCalls(message);
    out.push_back({role, std::move(text)});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CompletionRequest> ReadCompletion(std::string_view body, const ServedModel& model,
                                                 uint64_t seed) {
  const absl::StatusOr<Json> json = openai::ReadBody(body);
  if (!json.ok()) return json.status();
  Fields fields(*json);
  CompletionRequest request;
  GenerateRequest one;
  ReadCommon(fields, model, seed, request, one);
  ReadMaxTokens(fields, model, kCompletionTokens, one);
  if (const auto logprobs = fields.Integer("logprobs", 0, 5); logprobs.has_value()) {
    request.logprobs = true;
    one.alternatives = static_cast<int32_t>(*logprobs);
  }
  const int64_t n = fields.Integer("n", 1, kMostChoices).value_or(1);
  if (fields.Integer("best_of", 1, INT32_MAX).value_or(n) != n)
    fields.Fail(Bad("best_of", "'best_of' must be 'n': no answer is thrown away"));
  const bool echo = fields.Bool("echo", false);
  if (echo && request.logprobs)
    fields.Fail(Bad("echo", "'echo' does not go with 'logprobs': the prompt's own are not known"));
  fields.Refuse("suffix", "", "is not there: the model only goes on");
  const Json* prompt = fields.Find("prompt");
  if (prompt == nullptr) fields.Fail(Bad("prompt", "'prompt' is missing"));
  if (!fields.status().ok()) return fields.status();
  absl::StatusOr<std::vector<std::vector<TokenId>>> prompts =
      openai::ReadTexts(*prompt, "prompt", *model.tokenizer, kMostChoices);
  if (!prompts.ok()) return prompts.status();
  if (absl::Status s = AddChoices(model, "prompt", *std::move(prompts), n, one, request); !s.ok()) return s;
  // Only now is it known that they are not too many.
  for (const GenerateRequest& choice : request.choices) {
    if (!echo) break;
    std::string& text = request.echo.emplace_back();
    // End-of-text is no text.
    for (const TokenId token : choice.prompt) text += model.tokenizer->Bytes(token);
  }
  return request;
}

absl::StatusOr<CompletionRequest> ReadChat(std::string_view body, const ServedModel& model, uint64_t seed) {
  const absl::StatusOr<Json> json = openai::ReadBody(body);
  if (!json.ok()) return json.status();
  Fields fields(*json);
  CompletionRequest request;
  GenerateRequest one;
  request.chat = true;
  ReadCommon(fields, model, seed, request, one);
  ReadMaxTokens(fields, model, kChatTokens, one);
  request.logprobs = fields.Bool("logprobs", false);
  one.alternatives = static_cast<int32_t>(fields.Integer("top_logprobs", 0, kMostAlternatives).value_or(0));
  if (one.alternatives > 0 && !request.logprobs)
    fields.Fail(Bad("top_logprobs", "'top_logprobs' goes with 'logprobs': true"));
  const int64_t n = fields.Integer("n", 1, kMostChoices).value_or(1);
  if (const Json* format = fields.Find("response_format"); format != nullptr)
    fields.Fail(openai::CheckFormat(*format, "response_format"));
  openai::ReadTools(fields);
  std::vector<ChatMessage> messages;
  fields.Fail(ReadMessages(fields.Find("messages"), messages));
  if (!fields.status().ok()) return fields.status();
  std::vector<std::vector<TokenId>> prompt = {PromptTokens(*model.tokenizer, model.chat.Render(messages))};
  one.stops.insert(one.stops.end(), model.chat.stops().begin(), model.chat.stops().end());
  if (absl::Status s = AddChoices(model, "messages", std::move(prompt), n, one, request); !s.ok()) return s;
  return request;
}

}  // namespace omni
