// What a memory of contexts is worth: a text's second half, predicted after its first half was read.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include <absl/status/statusor.h>

#include "engine/around/context_memory.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"

namespace omni {

struct ContextWorth {
  int64_t tokens = 0, bytes = 0;                      // of the second half
  double nats = 0, nats_memory = 0, nats_ngrams = 0;  // by the model, with the memory, with counts instead
  double memory_seconds = 0, ngram_seconds = 0;       // asking, mixing and learning, both halves
  int64_t read = 0;                                   // tokens of both halves
};

// The text is one document; it begins afresh, after an end-of-text, and of more than `most_tokens` the rest
// is left out. Deterministic but for the seconds. Errors are the source's.
absl::StatusOr<ContextWorth> MeasureContexts(const ModelWeights& weights, ExpertSource& source,
                                             const Tokenizer& tokenizer, WorkerPool& pool,
                                             std::string_view text, int64_t most_tokens,
                                             std::shared_ptr<const ContextCode> code);

}  // namespace omni
