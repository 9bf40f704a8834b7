#include "tests/bench/session_answers.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/node.h"
#include "engine/text/prompt.h"

namespace omni::bench {

ClusterClient::Request RequestOf(int session, int64_t tokens) {
  ClusterClient::Request request;
  request.prompt = absl::StrCat("The captain of ship ", session, " looked at the sea");
  request.max_tokens = tokens;
  request.sampler.seed = static_cast<uint64_t>(session) + 1;
  request.sampler.temperature = session % 2 == 0 ? 0.0f : 0.9f;
  request.stop_at_end_of_text = false;
  return request;
}

absl::StatusOr<std::vector<std::vector<TokenId>>> AnswersOfOneProcess(const std::string& model, int sessions,
                                                                      int64_t tokens) {
  NodeOptions options;
  options.model = model;
  options.swarm.threads = 1;
  auto node = Node::Start(nullptr, options);
  if (!node.ok()) return node.status();
  std::vector<std::vector<TokenId>> answers;
  for (int s = 0; s < sessions; ++s) {
    const ClusterClient::Request ask = RequestOf(s, tokens);
    GenerateRequest request;
    request.prompt = PromptTokens((*node)->model().tokenizer(), ask.prompt);
    request.max_tokens = ask.max_tokens;
    request.sampler = ask.sampler;
    request.stop_at_end_of_text = ask.stop_at_end_of_text;
    auto result = (*node)->swarm().Generate(std::move(request), nullptr);
    if (!result.ok()) return result.status();
    answers.push_back(std::move(result->tokens));
  }
  return answers;
}

}  // namespace omni::bench
