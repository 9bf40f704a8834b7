// A model in a GPU's memory. Internal to the device's decoder.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/decode/device_memory.h"
#include "engine/model/expert_source.h"
#include "engine/model/weights.h"

namespace omni {

// Where what lies in a device's tiles; without a table.
kernels::device::Experts ShapeOfExperts(const ModelConfig& config);
// Bytes from one of an expert's tiles to the next.
int64_t TileStrideOnDevice(const ModelConfig& config);

// All that is not an expert. `view` has the shape of the host's weights and pointers of the device.
class DeviceWeights {
 public:
  static absl::StatusOr<DeviceWeights> Upload(const ModelWeights& weights, DevicePool& pool);
  // What Upload takes of the pool.
  static int64_t BytesFor(const ModelWeights& weights);
  const ModelWeights& view() const { return view_; }
  // [experts * experts per region]: the expert at a place of an expert's region. Null without members.
  const int32_t* expert_at() const { return expert_at_; }

 private:
  DeviceBuffer bytes_;
  ModelWeights view_;
  const int32_t* expert_at_ = nullptr;
};

// Experts of a model for a device: all of them in its memory, or one layer's at a time through two buffers.
class DeviceExperts {
 public:
  // Every expert of every layer, each distinct tile once. A source that is not resident must let all of its
  // experts be held at a time.
  static absl::StatusOr<DeviceExperts> Resident(const ModelConfig& config, ExpertSource& source,
                                                DevicePool& pool);
  // What Resident takes of the pool.
  static absl::StatusOr<int64_t> BytesForResident(const ModelConfig& config, ExpertSource& source);
  // Two buffers of an expert, filled from pinned memory: the source's own, where all its tiles lie in such
  // and stay there, or two more buffers of the host's, into which each expert is copied first.
  static absl::StatusOr<DeviceExperts> Streamed(const ModelConfig& config, ExpertSource& source,
                                                DevicePool& pool, bool source_is_pinned);
  ~DeviceExperts();
  DeviceExperts(DeviceExperts&&) noexcept;
  DeviceExperts& operator=(DeviceExperts&&) noexcept;

  bool resident() const;
  // Of a layer whose experts are resident.
  kernels::device::Experts Of(LayerId layer) const;
  // It will be brought: its source may read it meanwhile.
  void Foresee(LayerId layer, ExpertId expert);
  // Puts an expert on its way to the device, unless it is there or on its way. What is there of the last but
  // one that was brought is overwritten as soon as `compute` has done what is on it by now.
  absl::Status Bring(LayerId layer, ExpertId expert, kernels::device::Stream compute);
  // The expert brought by then, whose rows alone are computed; work put on `compute` afterwards waits for it.
  absl::StatusOr<kernels::device::Experts> Brought(LayerId layer, ExpertId expert,
                                                   kernels::device::Stream compute);
  int64_t bytes_brought() const;

 private:
  struct Impl;
  explicit DeviceExperts(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
