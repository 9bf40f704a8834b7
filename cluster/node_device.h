// The device of a node: one for what the node coordinates and for the regions that it serves.
#pragma once

#include <memory>

#include <absl/status/status.h>

#include "engine/decode/choose_decoder.h"
#include "engine/decode/device_expert_runner.h"

namespace omni {

struct NodeDuties {
  bool coordinates = false;  // room is left for the states of sessions
  bool has_all = false;      // the whole model is here: a device that has room for it needs nobody else
};

// Opens the device of `choice`, which has it from then on, or is the CPU. `runner` becomes what computes the
// node's regions there, or null if the CPU does. config and pool outlive it. Errors: OpenDevice's;
// DeviceExpertRunner::Create's, but for too little memory, which is logged (device_refused).
absl::Status TakeDevice(const ModelConfig& config, WorkerPool& pool, const NodeDuties& duties,
                        DeviceChoice& choice, std::unique_ptr<DeviceExpertRunner>& runner);

}  // namespace omni
