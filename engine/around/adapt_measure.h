// What an adapter is worth: it is learned from a document's beginning and measured on the rest.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/around/adapt_learn.h"

namespace omni {

struct AdaptWorth {
  AdaptReport learned;
  int64_t tokens = 0, bytes = 0;  // of the rest
  double nats = 0, nats_adapted = 0;
  // With counts of n-grams in the adapter's place, mixed as a memory's guesses are: those of the beginning
  // alone, and with those of the rest added as it is read.
  double nats_ngrams = 0, nats_ngrams_reading = 0;
  std::vector<AdaptShare> shares;  // nats_without: of the rest, in all
};

// The first `first_bytes` of the document are learned from, with an adapter of `parts`; of the rest at most
// `most_tokens` are measured, read on from the beginning. Errors: LearnAdapter's.
absl::StatusOr<AdaptWorth> MeasureAdapter(const ModelWeights& weights, ExpertSource& source,
                                          const Tokenizer& tokenizer, WorkerPool& pool,
                                          std::string_view document, int64_t first_bytes, int64_t most_tokens,
                                          const AdaptSettings& settings, Adapter& adapter);

}  // namespace omni
