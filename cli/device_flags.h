// Flags of the verbs that can compute on a GPU.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>
#include <nlohmann/json_fwd.hpp>

#include "cli/verb.h"
#include "engine/decode/choose_decoder.h"
#include "kernels/device/device.h"

namespace omni::cli {

class DeviceFlags {
 public:
  // of_this_process, if not null: takes them as flags that do nothing where another process computes.
  void Add(Verb& verb, GivenFlags* of_this_process = nullptr);
  CLI::Option* AddDevice(Verb& verb);  // --device alone
  // Usage errors: a device that is none of these, --vram where only the CPU is to compute.
  absl::StatusOr<DeviceChoice> Choice() const;

 private:
  std::string device_ = "cpu";
  int64_t vram_ = 0;  // bytes; 0: not given
  std::function<bool()> vram_given_;
};

// The devices of this machine, and the library of their code. LoadDeviceLibrary's errors.
struct DevicesHere {
  std::string library;
  std::vector<kernels::device::Properties> devices;
};
absl::StatusOr<DevicesHere> FindDevices();

nlohmann::json DeviceJson(const DeviceReport& report);
// For people: "NVIDIA ..., experts resident, 1.2 GB of 4.0 GB"; what the CPU did in its place, if it did.
std::string DescribeDevice(const DeviceReport& report);

}  // namespace omni::cli
