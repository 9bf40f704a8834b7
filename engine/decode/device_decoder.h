// The decoder on a GPU: the same token step, by the device's kernels (kernels/device/device.h), whose results
// have the same bits as the CPU's. One row at a time, with all experts in the device's memory, the layers are
// one graph.
#pragma once

#include <cstdint>
#include <memory>

#include <absl/status/statusor.h>

#include "engine/decode/decoder.h"

namespace omni {

struct DeviceSettings {
  // Where a layer's experts are computed.
  enum class ExpertsAt {
    kResident,  // on the device, which holds them all
    kStreamed,  // on the device, which gets each when it is needed, or ahead where routes are known ahead
    kOutside,   // by whoever drives the decoder, as with the CPU's: TakeJobs has jobs
    // kResident where they are in the host's memory and fit, with room for `sessions` states; else the other.
    kResidentOrStreamed,
    kResidentOrOutside,
  };
  int device = 0;
  int64_t memory_cap = 0;  // of the device, in bytes; 0: as much as it has
  ExpertsAt experts = ExpertsAt::kResident;
  // kStreamed: all of the source's tiles lie in pinned memory, as long as the decoder lives.
  bool source_is_pinned = false;
  int64_t max_rows = 64;  // of a batch, 1 .. 512
  bool graphs = true;
  // Sessions' states stay on the device from pass to pass (SessionState::elsewhere), but for those of rows
  // with want_state. Otherwise they come and go with every pass.
  bool states_stay = false;
  int64_t sessions = 1;  // whose states must fit beside resident experts
};

class DevicePool;

class DeviceDecoder final : public Decoder {
 public:
  // weights, source and pool outlive the decoder; weights are valid (CheckWeights). source may be null if the
  // experts are outside. Unavailable: there is no such device, or it failed. ResourceExhausted: the cap or
  // the device is too small. Unimplemented: a dimension that the device's kernels do not take; the message
  // names it. `pool`: of the device, shared with others; null: a new one of the settings.
  static absl::StatusOr<std::unique_ptr<DeviceDecoder>> Create(const ModelWeights& weights,
                                                               ExpertSource* source,
                                                               const DeviceSettings& settings,
                                                               std::shared_ptr<DevicePool> pool = nullptr);
  ~DeviceDecoder() override;

  // As Decoder's. What the device reports later than StartLayer comes with TakeJobs or logits, as
  // Unavailable: the sessions are then where they were before the pass, so that another decoder may repeat
  // it, unless their states were elsewhere: those are lost. The decoder is of no more use. ResourceExhausted
  // by Begin: the device has no room for the states, or the batch more rows than it was made for; the states
  // are as they were.
  absl::Status Begin(std::span<const BatchRow> rows) override;
  bool StartLayer(LayerId layer, const Done& done = {}) override;
  bool StartHidden(const Done& done = {}) override;
  bool StartLogits(const Done& done = {}) override;
  absl::StatusOr<std::vector<ExpertJob>> TakeJobs() override;
  void AddExpertOutput(const ExpertJob& job, const float* out) override;
  std::span<float> hidden(int64_t i) override;
  absl::StatusOr<std::span<const float>> logits() override;
  std::span<const ExpertId> routes() const override;
  std::span<const ExpertId> PredictRoutes(LayerId layer) override;
  std::span<const ExpertId> KnownRoutes(LayerId layer) override;
  std::span<const ExpertId> NextRoutes(LayerId layer) override;
  const kernels::Ops& ops() const override;  // the CPU's, for experts that are outside
  absl::Status status() const override;

  DeviceSettings::ExpertsAt experts_at() const;  // kResident, kStreamed or kOutside
  const char* device_name() const;
  int64_t device_bytes() const;    // in use
  int64_t bytes_streamed() const;  // of experts, so far
  int64_t graphs_made() const;

 private:
  struct Impl;
  explicit DeviceDecoder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
