// The `omni-train-cuda` program: omni-train's flags, on this machine's first CUDA device.
#include <algorithm>
#include <string>
#include <vector>

#include "engine/train/device/device_trainer.h"
#include "engine/train/train_program.h"

int main(int argc, char** argv) {
  using namespace omni::train;  // NOLINT
  return TrainProgram(
      "omni-train-cuda", {argv + std::min(argc, 1), argv + argc}, [] {},
      [](const TrainSettings& settings, const std::function<bool()>& stop) {
        return TrainOnDevice(settings, MakeCudaStep, stop);
      });
}
