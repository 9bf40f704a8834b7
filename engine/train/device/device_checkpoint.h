// RUN/checkpoint of a run on a device: the files that engine/train/checkpoint_io.h writes and reads, so that
// a run may go on where the other kind left it.
#pragma once

#include <string>
#include <vector>

#include <absl/status/status.h>

#include "engine/text/tokenizer.h"
#include "engine/train/data.h"
#include "engine/train/device/device_step.h"
#include "engine/train/run_state.h"

namespace omni::train {

// What an expert layer has beside its parameters.
struct ExpertTables {
  std::vector<uint8_t> members;  // [V], by address
  std::vector<float> bias;       // [E], with route_bias
  std::vector<float> loads;      // [E or regions], likewise
};

struct DeviceModel {
  ModelConfig config;
  Layout layout;
  std::vector<ExpertTables> tables;
  int64_t batch = 0, memory = 0;
};

absl::Status SaveDeviceCheckpoint(const std::string& run, const DeviceModel& model, DeviceStep& step,
                                  size_t state, const Tokenizer& tokenizer, const Streams& streams,
                                  const RunState& run_state);
absl::Status LoadDeviceCheckpoint(const std::string& run, DeviceModel& model, DeviceStep& step, size_t state,
                                  Streams& streams);

}  // namespace omni::train
