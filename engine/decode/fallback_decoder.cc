#include "engine/decode/fallback_decoder.h"

#include <utility>

#include "engine/base/log.h"
#include "engine/decode/device_memory.h"

namespace omni {
namespace {

const char* NameOf(DeviceSettings::ExpertsAt at) {
  switch (at) {
    case DeviceSettings::ExpertsAt::kResident:
      return "resident";
    case DeviceSettings::ExpertsAt::kStreamed:
      return "streamed";
    default:
      return "outside";
  }
}

}  // namespace

FallbackDecoder::FallbackDecoder(std::unique_ptr<DeviceDecoder> device, int64_t memory_cap,
                                 std::unique_ptr<Decoder> cpu)
    : device_(std::move(device)), cpu_(std::move(cpu)), now_(device_.get()) {
  report_.name = device_->device_name();
  report_.experts = NameOf(device_->experts_at());
  report_.memory_cap = memory_cap;
  Note();
}

void FallbackDecoder::Note() {
  std::lock_guard lock(mutex_);
  if (device_ == nullptr) return;
  report_.memory_used = device_->device_bytes();
  report_.bytes_streamed = device_->bytes_streamed();
  report_.graphs = device_->graphs_made();
}

absl::Status FallbackDecoder::Begin(std::span<const BatchRow> rows) {
  if (device_ != nullptr) {
    absl::Status begun = device_->Begin(rows);
    if (begun.ok()) {
      now_ = device_.get();
      std::lock_guard lock(mutex_);
      ++report_.passes;
      return begun;
    }
    if (IsDeviceFailure(begun)) {
      Lose(begun);
    } else if (begun.code() == absl::StatusCode::kUnimplemented) {
      if (!std::exchange(passed_over_said_, true)) {
        LogInfo("device_passed_over", "the CPU computes what the device does not offer: {reason}",
                {{"reason", begun.message()}});
      }
    } else if (begun.code() != absl::StatusCode::kResourceExhausted) {
      return begun;
    } else if (!std::exchange(full_said_, true)) {
      LogWarning("device_full", "a pass is computed by the CPU, and so will be others like it: {reason}",
                 {{"reason", begun.message()}});
    }
  }
  now_ = cpu_.get();
  absl::Status begun = cpu_->Begin(rows);
  if (begun.ok()) {
    std::lock_guard lock(mutex_);
    ++report_.fallbacks;
  }
  return begun;
}

bool FallbackDecoder::StartHidden(const Done& done) {
  const bool over = now_->StartHidden(done);
  if (over && now_ == device_.get()) Note();
  return over;
}

bool FallbackDecoder::Recover(const absl::Status& error) {
  if (!IsDeviceFailure(error)) return false;
  if (device_ != nullptr) Lose(error);
  return true;
}

// Its memory goes with it, as far as a lost device gives any back.
void FallbackDecoder::Lose(const absl::Status& why) {
  LogWarning("device_lost", "device {device} is given up, and the CPU goes on: {reason}",
             {{"device", report_.name}, {"reason", why.message()}});
  now_ = cpu_.get();
  device_ = nullptr;
  std::lock_guard lock(mutex_);
  report_.lost = true;
  report_.memory_used = 0;
}

DeviceReport FallbackDecoder::Report() const {
  std::lock_guard lock(mutex_);
  return report_;
}

}  // namespace omni
