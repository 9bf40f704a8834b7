// Clients' requests: whatever bytes they are, a request that can be computed or an error that can be shown.
#include "cluster/http/openai_request.h"

#include "cluster/http/chat_template.h"
#include "cluster/http/openai_answer.h"
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
      R"({"system":"<{content}>","user":"Q{content}","assistant":"A{content}","answer":"A","stops":["Q"]})"};
}

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
  for (const bool chat : {false, true}) {
    const auto read = chat ? ReadChat(body, model, 1) : ReadCompletion(body, model, 1);
    if (!read.ok()) {
      RequireReadable(read.status());
      const HttpAnswer answer = ErrorAnswer(read.status());
      Require(answer.status == 400 || answer.status == 404, "what is wrong is the client's error");
      Require(answer.body.starts_with("{\"error\":{"), "an error has OpenAI's form");
      continue;
    }
    const GenerateRequest& request = read->generate;
    Require(!request.prompt.empty() && static_cast<int64_t>(request.prompt.size()) < model.max_context,
            "a prompt fits the context");
    for (const TokenId token : request.prompt)
      Require(token.value >= 0 && token.value < tokenizer.vocab(), "a prompt's tokens are the model's");
    Require(request.max_tokens >= 1, "something is to be generated");
    Require(Validate(request.sampler).ok(), "the settings are the sampler's");
    for (const std::string& stop : request.stops) Require(!stop.empty(), "stops are not empty");
  }
  return 0;
}
