#include "engine/decode/last_words.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "engine/base/json.h"
#include "engine/decode/cpu_decoder.h"
#include "engine/decode/eval.h"

namespace omni {
namespace {

constexpr size_t kRowsPerPass = 256;

// Tokens of a passage, and how many of the last ones are the word's.
struct Passage {
  std::vector<TokenId> tokens;
  size_t word = 0;
};

absl::StatusOr<Passage> Cut(const Tokenizer& tokenizer, const std::string& text, size_t number) {
  const size_t space = text.find_last_of(' ');
  if (space == std::string::npos || space == 0 || space + 1 == text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("passage ", number + 1, " has no last word after a space"));
  }
  // A pre-token begins at the space, so that no token reaches over it.
  Passage passage{{Tokenizer::kEndOfText}, 0};
  for (TokenId token : tokenizer.Encode(std::string_view(text).substr(0, space)))
    passage.tokens.push_back(token);
  const std::vector<TokenId> word = tokenizer.Encode(std::string_view(text).substr(space));
  passage.tokens.insert(passage.tokens.end(), word.begin(), word.end());
  passage.word = word.size();
  return passage;
}

}  // namespace

double LastWordsResult::perplexity() const {
  return passages > 0 ? std::exp(nats / static_cast<double>(passages)) : 0;
}

absl::StatusOr<std::vector<std::string>> ReadPassages(std::string_view lines) {
  std::vector<std::string> passages;
  for (size_t begin = 0, number = 1; begin < lines.size(); ++number) {
    const size_t end = std::min(lines.find('\n', begin), lines.size());
    const std::string_view line = lines.substr(begin, end - begin);
    begin = end + 1;
    if (line.empty()) continue;
    const absl::StatusOr<nlohmann::json> json = ParseJson<nlohmann::json>(line);
    if (!json.ok() || !json->is_object() || !json->contains("text") || !json->at("text").is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, " is no JSON object with a text \"text\""));
    }
    passages.push_back(json->at("text").get<std::string>());
  }
  if (passages.empty()) return absl::InvalidArgumentError("there are no passages in it");
  return passages;
}

absl::StatusOr<LastWordsResult> EvalLastWords(const ModelWeights& weights, ExpertSource& source,
                                              const Tokenizer& tokenizer, WorkerPool& pool,
                                              std::span<const std::string> passages,
                                              const std::function<void(double share)>& progress,
                                              const kernels::Ops& ops) {
  const ModelConfig& config = weights.config;
  if (tokenizer.vocab() > config.vocab) {
    return absl::InvalidArgumentError(absl::StrCat("last words: the tokenizer has ", tokenizer.vocab(),
                                                   " tokens, the model ", config.vocab,
                                                   "; use the tokenizer the model was trained with"));
  }
  CpuDecoder decoder(weights, pool, ops);
  std::deque<SessionState> states;
  LastWordsResult result;
  for (size_t next = 0; next < passages.size();) {
    std::vector<Passage> cut;
    std::vector<BatchRow> rows;
    while (next < passages.size() && (rows.empty() || rows.size() < kRowsPerPass)) {
      absl::StatusOr<Passage> passage = Cut(tokenizer, passages[next], next);
      if (!passage.ok()) return passage.status();
      ++next;
      if (states.size() == cut.size()) states.emplace_back(config);
      SessionState& state = states[cut.size()];
      state.Reset();
      const size_t n = passage->tokens.size();
      for (size_t i = 0; i + 1 < n; ++i)
        rows.push_back({&state, passage->tokens[i], i + 1 + passage->word >= n});
      cut.push_back(*std::move(passage));
    }
    const absl::StatusOr<std::span<const float>> logits = RunBatch(decoder, config, source, pool, rows);
    if (!logits.ok()) return logits.status();
    const float* row = logits->data();
    for (const Passage& passage : cut) {
      bool right = true;
      for (size_t i = passage.tokens.size() - passage.word; i < passage.tokens.size();
           ++i, row += config.vocab) {
        const TokenId target = passage.tokens[i];
        result.nats += NegativeLogLikelihood(row, config.vocab, target);
        right = right && std::max_element(row, row + config.vocab) - row == target.value;
      }
      result.right += right;
      ++result.passages;
    }
    if (progress) progress(static_cast<double>(next) / static_cast<double>(passages.size()));
  }
  return result;
}

}  // namespace omni
