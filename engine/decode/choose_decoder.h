// Where a process computes its tokens: on its cores, or on a device with the cores behind it.
#pragma once

#include <cstdint>
#include <memory>

#include <absl/status/statusor.h>

#include "engine/decode/fallback_decoder.h"
#include "engine/decode/worker_pool.h"

namespace omni {

struct DeviceChoice {
  enum class Kind {
    kCpu,
    kCuda,  // a device, and an error if there is none
    kAuto   // a device if there is one that can be used
  };
  Kind kind = Kind::kCpu;
  int device = 0;
  int64_t memory_cap = 0;  // bytes of the device; 0: what is free
  DeviceSettings::ExpertsAt experts = DeviceSettings::ExpertsAt::kResidentOrStreamed;
  std::shared_ptr<DevicePool> pool = nullptr;  // of that device, opened before and shared; null: a new one
};

struct ChosenDecoder {
  std::unique_ptr<Decoder> decoder;
  FallbackDecoder* device = nullptr;  // the same, if it has a device
};

// The device of a choice, for several that share its memory. Null: the CPU is to compute. Errors and what is
// logged as ChooseDecoder.
absl::StatusOr<std::shared_ptr<DevicePool>> OpenDevice(const DeviceChoice& choice);

// Why the CPU computes in place of the device of a choice that could not be used (device_refused,
// device_absent); an error if it is not to, because the device was asked for and is not there or fails.
absl::Status DeviceRefused(const DeviceChoice& choice, const absl::Status& why);

// Loads the library of the device's code if the choice needs it. weights, source and pool outlive the
// decoder. max_rows: of a batch on the device. Where a device is there but has too little memory, the CPU is
// taken, and the log says so (device_refused); with kAuto, so it is for any reason, but for a library that is
// not there. Errors of kCuda: LoadDeviceLibrary's; Unavailable: no such device, or it fails; Unimplemented:
// as DeviceDecoder::Create.
absl::StatusOr<ChosenDecoder> ChooseDecoder(const ModelWeights& weights, ExpertSource& source,
                                            WorkerPool& pool, const DeviceChoice& choice, int max_rows);

}  // namespace omni
