// Checkpoints of a run: weights, moments, carried state, data position and step, written whole or not at all.
#pragma once

#include <string>

#include <absl/status/status.h>

#include "engine/text/tokenizer.h"
#include "engine/train/data.h"
#include "engine/train/model.h"

namespace omni::train {

struct RunState {
  int64_t step = 0;
  double seconds = 0;         // spent training, over all resumptions
  bool shared_start = false;  // all experts are one as yet: start.safetensors is saved too
};

// RUN/checkpoint, replaced by renaming a complete RUN/checkpoint.tmp over it; the one before it survives a
// crash at any point (a half-done replacement is finished by LoadCheckpoint).
absl::Status SaveCheckpoint(const std::string& run, TrainModel& model, const Tokenizer& tokenizer,
                            const Streams& streams, const Carry& carry, const RunState& state);
absl::Status LoadCheckpoint(const std::string& run, TrainModel& model, Streams& streams, Carry& carry,
                            RunState& state);

}  // namespace omni::train
