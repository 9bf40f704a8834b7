// What a device can do at most, and what the token path's parts reach of it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <absl/status/statusor.h>

#include "kernels/device/device.h"

namespace omni {

using Figures = std::vector<std::pair<std::string, double>>;  // by name, in the order of printing

// Median milliseconds of `work`, put on `stream` `repetitions` times after one in vain.
double MedianMilliseconds(kernels::device::Stream stream, int repetitions, const std::function<void()>& work);

// copy_gbps: within the device, reading and writing counted; host_to_device_gbps: from pinned memory.
absl::StatusOr<Figures> MeasureLimits(int64_t copy_bytes);

// Each product of a layer of d, r, f (of the design target in the real run), as microseconds and as a share
// of copy_gbps, over matrices that together are larger than the device's cache.
absl::StatusOr<Figures> MeasureProducts(int64_t d, int64_t r, int64_t f, int64_t vocab, int copies,
                                        double copy_gbps);

// Whole tokens of a model of the config named `preset` with drawn weights: experts in the device's memory and
// as a share of copy_gbps; streamed to it under `cap` bytes, as a share of host_to_device_gbps.
absl::StatusOr<Figures> MeasureTokens(const std::string& preset, int tokens, int64_t cap, double copy_gbps,
                                      double host_to_device_gbps);

}  // namespace omni
