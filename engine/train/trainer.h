// The training run: optimiser schedule, validation, checkpoints with bit-exact resume, the live line and the
// log.
#pragma once

#include <functional>

#include <absl/status/status.h>

#include "engine/train/settings.h"

namespace omni::train {

// Trains as the settings say, and says how it goes on stderr. What cannot work is refused before the training
// begins. `stop`, which may be empty, is asked after every step by the calling thread; once it says true the
// run ends at the next step that can be saved, with a checkpoint, and returns Cancelled. Throws nothing.
absl::Status Train(const TrainSettings& settings, const std::function<bool()>& stop = nullptr);

}  // namespace omni::train
