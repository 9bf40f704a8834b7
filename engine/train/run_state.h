// What a checkpoint says of its run.
#pragma once

#include <cstdint>
#include <string>

#include <absl/status/statusor.h>
#include <nlohmann/json.hpp>

namespace omni::train {

// What a run was started with, as far as its checkpoint says: older versions did not write it down.
struct RunRecord {
  std::string data_hash, tokenizer_hash;  // TextHash of --data and of tokenizer.omni; empty: not known
  nlohmann::json settings;                // RecordedSettings; null: not known
};

struct RunState {
  int64_t step = 0;
  double seconds = 0;         // spent training, over all resumptions
  bool shared_start = false;  // all experts are one as yet: start.safetensors is saved too
  RunRecord record;
};

// Of RUN/checkpoint: step, seconds and record. shared_start is not known.
absl::StatusOr<RunState> ReadRunState(const std::string& run);

}  // namespace omni::train
