// Checkpoints of a run: weights, moments, carried state, data position and step, written whole or not at all.
#pragma once

#include <string>

#include <absl/status/status.h>

#include "engine/text/tokenizer.h"
#include "engine/train/carry.h"
#include "engine/train/data.h"
#include "engine/train/model.h"
#include "engine/train/run_state.h"

namespace omni::train {

// As RUN/checkpoint, in place of the one before.
absl::Status SaveCheckpoint(const std::string& run, TrainModel& model, const Tokenizer& tokenizer,
                            const Streams& streams, const Carry& carry, const RunState& state);

// What SaveCheckpoint saved, apart from the state, into a model and a carry of the same shape. Refuses data
// that cannot be of this run: another batch, a position outside the corpus.
absl::Status LoadCheckpoint(const std::string& run, TrainModel& model, Streams& streams, Carry& carry);

}  // namespace omni::train
