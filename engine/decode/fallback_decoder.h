// A decoder on a device with the CPU's behind it: what the device refuses or loses, the CPU computes, and the
// bytes are the same.
//
//     the device has no room for a batch's states, or the batch too many rows   this pass is the CPU's
//     a row has an adapter                                                      this pass is the CPU's
//     the device is lost, or a call of its runtime fails                        all passes from now on are
//
// All are logged (device_full, device_passed_over, device_lost), the first two once.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "engine/decode/device_decoder.h"

namespace omni {

// What the device does, for whoever watches.
struct DeviceReport {
  std::string name;                         // as the device's runtime has it
  const char* experts = "";                 // "resident", "streamed" or "outside"
  int64_t memory_used = 0, memory_cap = 0;  // bytes
  int64_t bytes_streamed = 0;               // of experts to the device
  int64_t graphs = 0;
  int64_t passes = 0, fallbacks = 0;  // of the device; of the CPU in its place
  bool lost = false;
};

class FallbackDecoder final : public Decoder {
 public:
  FallbackDecoder(std::unique_ptr<DeviceDecoder> device, int64_t memory_cap, std::unique_ptr<Decoder> cpu);

  absl::Status Begin(std::span<const BatchRow> rows) override;
  // Not while a device may compute the next pass, which takes none.
  bool takes_asides() const override { return device_ == nullptr && cpu_->takes_asides(); }
  bool StartLayer(LayerId layer, const Done& done = {}) override { return now_->StartLayer(layer, done); }
  bool StartHidden(const Done& done = {}) override;
  bool StartLogits(const Done& done = {}) override { return now_->StartLogits(done); }
  absl::StatusOr<std::vector<ExpertJob>> TakeJobs() override { return now_->TakeJobs(); }
  void AddExpertOutput(const ExpertJob& job, const float* out) override { now_->AddExpertOutput(job, out); }
  std::span<float> hidden(int64_t i) override { return now_->hidden(i); }
  absl::StatusOr<std::span<const float>> logits() override { return now_->logits(); }
  std::span<const ExpertId> routes() const override { return now_->routes(); }
  std::span<const ExpertId> PredictRoutes(LayerId layer) override { return now_->PredictRoutes(layer); }
  std::span<const ExpertId> KnownRoutes(LayerId layer) override { return now_->KnownRoutes(layer); }
  std::span<const ExpertId> NextRoutes(LayerId layer) override { return now_->NextRoutes(layer); }
  const kernels::Ops& ops() const override { return cpu_->ops(); }
  absl::Status status() const override { return now_->status(); }
  bool Recover(const absl::Status& error) override;

  DeviceReport Report() const;  // thread-safe; as of the last pass

 private:
  void Lose(const absl::Status& why);
  void Note();

  std::unique_ptr<DeviceDecoder> device_;  // null: lost
  std::unique_ptr<Decoder> cpu_;
  Decoder* now_;
  bool full_said_ = false, passed_over_said_ = false;
  mutable std::mutex mutex_;
  DeviceReport report_;
};

}  // namespace omni
