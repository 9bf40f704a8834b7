// LAMBADA: passages whose last word is to be foretold (Paperno et al. 2016), as GPT-2 was measured on it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"
#include "kernels/op.h"

namespace omni {

struct LastWordsResult {
  int64_t passages = 0;
  int64_t right = 0;  // of whose last word every token was the likeliest
  double nats = 0;    // of the last words, summed
  double accuracy() const {
    return passages > 0 ? static_cast<double>(right) / static_cast<double>(passages) : 0;
  }
  double perplexity() const;  // exp of the mean nats of a word
};

// A file of lines, each a JSON object with the passage in "text". Rejects what is none, naming the line.
absl::StatusOr<std::vector<std::string>> ReadPassages(std::string_view lines);

// Each passage after an end-of-text, at zero state; its last word is what follows its last space, that space
// included. Rejects a passage of one word, naming its number, and a tokenizer of more tokens than the model
// has. The result depends neither on threads nor on what shares a pass.
absl::StatusOr<LastWordsResult> EvalLastWords(const ModelWeights& weights, ExpertSource& source,
                                              const Tokenizer& tokenizer, WorkerPool& pool,
                                              std::span<const std::string> passages,
                                              const std::function<void(double share)>& progress = nullptr,
                                              const kernels::Ops& ops = kernels::ActiveOps());

}  // namespace omni
