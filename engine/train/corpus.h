// The text of a run as tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/text/tokenizer.h"
#include "engine/train/settings.h"

namespace omni::train {

struct Corpus {
  Tokenizer tokenizer;
  std::vector<int32_t> train, valid;  // valid is empty if there is nothing to validate on
  double train_bytes_per_token = 0, valid_bytes_per_token = 0;
  std::string data_hash;  // TextHash of all of --data
};

// What a resumed run was started with: it keeps its tokenizer and must find its text.
struct EarlierCorpus {
  Tokenizer tokenizer;
  std::string data_hash;  // empty: not known, nor compared
};

// Reads --data and --valid, cuts --holdout and --tune off, and makes tokens of the rest with the earlier
// run's tokenizer, --tokenizer, or one that is learnt from the training text. Refuses a text that is too
// short to train on, or to be validated on where --eval-every says that it will be.
absl::StatusOr<Corpus> LoadCorpus(const TrainSettings& settings, const std::optional<EarlierCorpus>& earlier);

// How a running validation cuts `tokens` tokens: parallel sequences, and segments of each. No segments: the
// text is too short for one.
struct ValidationShape {
  int64_t tokens = 0, batch = 0, segments = 0;
};
ValidationShape ShapeOfValidation(int64_t tokens, const TrainSettings& settings);

}  // namespace omni::train
