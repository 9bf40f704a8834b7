// The device's step on one thread of this CPU.
#define OMNI_TRAIN_DEVICE host
#include "engine/train/device/step_parts.inc"

namespace omni::train {

std::unique_ptr<DeviceStep> MakeHostStep(const ModelConfig& config, const Layout& layout, int64_t batch,
                                         int64_t tokens, int64_t memory) {
  return std::make_unique<host::Step>(config, layout, batch, tokens, memory);
}

}  // namespace omni::train
