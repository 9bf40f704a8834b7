// A training run on a device: the same text, schedule, log and checkpoints as engine/train/trainer.h's, with
// a DeviceStep for the arithmetic. Needs no libtorch.
#pragma once

#include <functional>
#include <memory>

#include <absl/status/status.h>

#include "engine/train/device/device_step.h"
#include "engine/train/settings.h"

namespace omni::train {

using StepMaker = std::function<std::unique_ptr<DeviceStep>(const ModelConfig& config, const Layout& layout,
                                                            int64_t batch, int64_t tokens, int64_t memory)>;

// OK, or InvalidArgument naming the flag that asks for what the device's step does not know.
absl::Status DeviceTrainable(const TrainSettings& settings);

// As Train, with what MakeCudaStep or MakeHostStep makes. First weights are drawn by another generator than
// on the CPU; a run may go on where either kind left it. Internal: the device failed.
absl::Status TrainOnDevice(const TrainSettings& settings, const StepMaker& make,
                           const std::function<bool()>& stop);

}  // namespace omni::train
