// Clients' requests: whatever bytes they are, a request that can be computed or an error that can be shown.
#include "cluster/http/openai_request.h"

#include <memory>

#include "cluster/http/chat_template.h"
#include "cluster/http/embeddings.h"
#include "cluster/http/openai_answer.h"
#include "cluster/http/response_answer.h"
#include "cluster/http/response_request.h"
#include "engine/text/sampler.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 60000;

std::vector<std::string> Seeds() {
  return {
      R"({"model":"m","prompt":"the sea","max_tokens":5,"temperature":0.5,"top_p":0.9,"stop":["a","b"],)"
      R"("seed":-7})",
      R"({"prompt":[1,2,3],"stream":true,"stream_options":{"include_usage":true},"logprobs":0,"n":1,)"
      R"("echo":false})",
      R"({"messages":[{"role":"system","content":"s"},{"role":"user",)"
      R"("content":[{"type":"text","text":"u"}]},)"
      R"({"role":"assistant","content":null,"tool_calls":[]},{"role":"tool","content":"t"}],"tools":[{}],)"
      R"("tool_choice":"auto","logprobs":true,"top_logprobs":0,"max_completion_tokens":9})",
      R"({"prompt":["x"],"top_k":3,"min_p":0.1,"repeat_penalty":1.2,"presence_penalty":0,"logit_bias":{}})",
      R"({"prompt":["a",[97,98]],"memory":"s","n":2,"best_of":2,"echo":true,"logprobs":null})",
      R"({"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"a"}}]},)"
      R"({"role":"assistant","content":[{"type":"refusal","refusal":"r"}],"function_call":{}}]})",
      R"({"messages":[{"role":"user","content":"u"}],"n":2,"logprobs":true,"top_logprobs":5})",
      R"({"input":"a","instructions":"i","max_output_tokens":1,"previous_response_id":"r","store":false,)"
      R"("metadata":{"a":"b"},"include":["message.output_text.logprobs"],"text":{"format":{"type":"text"}}})",
      R"({"input":[{"role":"developer","content":[{"type":"input_text","text":"d"}]},)"
      R"({"type":"function_call","name":"f","arguments":"{}"},)"
      R"({"type":"function_call_output","output":"o"},{"type":"reasoning","summary":[]},)"
      R"({"type":"message","role":"assistant","content":[{"type":"refusal","refusal":"r"}]}],)"
      R"("tool_choice":{"mode":"auto"},"top_logprobs":2})",
      R"({"input":["a","b"],"encoding_format":"base64","dimensions":null})",
      R"({"input":[[1,2],[3]]})",
      R"({"system":"<{content}>","user":"Q{content}","assistant":"A{content}","answer":"A","stops":["Q"]})"};
}

namespace {

// Whether it was read; else the error is the client's.
bool RequireRefused(const absl::Status& status) {
  if (status.ok()) return true;
  RequireReadable(status);
  const HttpAnswer answer = ErrorAnswer(status);
  Require(answer.status == 400 || answer.status == 404, "what is wrong is the client's error");
  Require(answer.body.starts_with("{\"error\":{"), "an error has OpenAI's form");
  return false;
}

void RequireAsked(const std::vector<GenerateRequest>& requests, const ServedModel& model) {
  Require(!requests.empty(), "something is asked");
  for (const GenerateRequest& request : requests) {
    Require(!request.prompt.empty() && static_cast<int64_t>(request.prompt.size()) < model.max_context,
            "a prompt fits the context");
    for (const TokenId token : request.prompt)
      Require(token.value >= 0 && token.value < model.tokenizer->vocab(),
              "a prompt's tokens are the model's");
    Require(request.max_tokens >= 1, "something is to be generated");
    Require(request.alternatives >= 0 && request.alternatives <= kMostAlternatives,
            "alternatives are bounded");
    Require(Validate(request.sampler).ok(), "the settings are the sampler's");
    for (const std::string& stop : request.stops) Require(!stop.empty(), "stops are not empty");
  }
}

bool Accounted(const CompletionRequest& request) {
  return static_cast<int64_t>(request.choices.size()) <= kMostChoices && request.prompt_tokens > 0;
}

}  // namespace

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  static const Tokenizer tokenizer = *Tokenizer::Train("the sea and the ship and the sea", 260);
  ServedModel model;
  model.name.assign(1, 'm');
  model.max_context = 200;
  model.tokenizer = &tokenizer;
  const std::string_view body = View(data, size);
  if (const auto chat = ChatTemplate::Parse(body); chat.ok()) {
    model.chat = *chat;
  } else {
    RequireReadable(chat.status());
  }
  const auto none = [](const std::string&) { return nullptr; };
  const std::vector<ChatMessage> before = {{"user", "the sea"}, {"assistant", "the ship"}};
  const auto stored = [&](const std::string& id) {
    return id.empty() ? nullptr : std::make_shared<const std::vector<ChatMessage>>(before);
  };
  if (const auto read = ReadCompletion(body, model, 1); RequireRefused(read.status())) {
    Require(read->echo.empty() || read->echo.size() == read->choices.size(), "every choice has its prompt");
    RequireAsked(read->choices, model);
    Require(Accounted(*read), "an answer has the choices that are asked for");
  }
  if (const auto read = ReadChat(body, model, 1); RequireRefused(read.status())) {
    RequireAsked(read->choices, model);
    Require(Accounted(*read), "an answer has the choices that are asked for");
  }
  for (const FindResponse& find : {FindResponse(none), FindResponse(stored)}) {
    const auto read = ReadResponse(body, model, 1, find);
    if (!RequireRefused(read.status())) continue;
    RequireAsked({read->generate}, model);
    ResponseHead head;
    head.echo = read->echo;
    ResponseAnswer answer(head, nullptr);
    Require(answer.Whole({AnswerChoice()}, {}).starts_with("{"), "a response is JSON, whatever it repeats");
  }
  if (const auto read = ReadEmbeddings(body, model); RequireRefused(read.status())) {
    for (const GenerateRequest& text : read->texts) Require(text.embed, "no token is drawn for an embedding");
    RequireAsked(read->texts, model);
  }
  return 0;
}
