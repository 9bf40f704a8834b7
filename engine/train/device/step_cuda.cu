// The step on a CUDA device.
#define OMNI_TRAIN_DEVICE cuda
#include "engine/train/device/step_parts.inc"

namespace omni::train {

std::unique_ptr<DeviceStep> MakeCudaStep(const ModelConfig& config, const Layout& layout, int64_t batch,
                                         int64_t tokens, int64_t memory) {
  return std::make_unique<cuda::Step>(config, layout, batch, tokens, memory);
}

}  // namespace omni::train
