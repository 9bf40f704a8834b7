#include "engine/decode/choose_decoder.h"

#include <algorithm>
#include <string>
#include <utility>

#include "engine/base/log.h"
#include "engine/decode/cpu_decoder.h"
#include "engine/decode/device_library.h"
#include "engine/decode/device_memory.h"

namespace omni {
namespace {

// Beside resident experts, at least as many as a few people's.
constexpr int64_t kSessionsBeside = 4;

absl::StatusOr<std::shared_ptr<DevicePool>> PoolOf(const DeviceChoice& choice) {
  if (choice.pool != nullptr) return choice.pool;
  if (const absl::StatusOr<std::string> library = LoadDeviceLibrary(); !library.ok()) return library.status();
  return DevicePool::Open(choice.device, choice.memory_cap);
}

absl::StatusOr<std::unique_ptr<DeviceDecoder>> OnDevice(const ModelWeights& weights, ExpertSource& source,
                                                        const DeviceChoice& choice, int max_rows,
                                                        int64_t* cap) {
  absl::StatusOr<std::shared_ptr<DevicePool>> pool = PoolOf(choice);
  if (!pool.ok()) return pool.status();
  *cap = choice.memory_cap > 0 ? choice.memory_cap : (*pool)->properties().free_bytes;
  DeviceSettings settings;
  settings.device = choice.device;
  settings.memory_cap = choice.memory_cap;
  settings.experts = choice.experts;
  settings.max_rows = std::clamp<int64_t>(max_rows, 1, kernels::device::kMaxRows);
  settings.states_stay = true;
  settings.sessions = kSessionsBeside;
  return DeviceDecoder::Create(weights, &source, settings, *std::move(pool));
}

}  // namespace

absl::Status DeviceRefused(const DeviceChoice& choice, const absl::Status& why) {
  const bool is_auto = choice.kind == DeviceChoice::Kind::kAuto;
  if (!is_auto && why.code() != absl::StatusCode::kResourceExhausted) return why;
  if (is_auto && why.code() == absl::StatusCode::kNotFound) {
    LogInfo("device_absent", "the CPU computes: {reason}", {{"reason", why.message()}});
  } else {
    LogWarning("device_refused", "the CPU computes, not device {device}: {reason}",
               {{"device", choice.device}, {"reason", why.message()}});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<DevicePool>> OpenDevice(const DeviceChoice& choice) {
  if (choice.kind == DeviceChoice::Kind::kCpu) return std::shared_ptr<DevicePool>();
  absl::StatusOr<std::shared_ptr<DevicePool>> pool = PoolOf(choice);
  if (pool.ok()) return pool;
  if (absl::Status s = DeviceRefused(choice, pool.status()); !s.ok()) return s;
  return std::shared_ptr<DevicePool>();
}

absl::StatusOr<ChosenDecoder> ChooseDecoder(const ModelWeights& weights, ExpertSource& source,
                                            WorkerPool& pool, const DeviceChoice& choice, int max_rows) {
  auto cpu = std::make_unique<CpuDecoder>(weights, pool);
  if (choice.kind == DeviceChoice::Kind::kCpu) return ChosenDecoder{std::move(cpu), nullptr};
  int64_t cap = 0;
  absl::StatusOr<std::unique_ptr<DeviceDecoder>> made = OnDevice(weights, source, choice, max_rows, &cap);
  if (!made.ok()) {
    if (absl::Status s = DeviceRefused(choice, made.status()); !s.ok()) return s;
    return ChosenDecoder{std::move(cpu), nullptr};
  }
  auto decoder = std::make_unique<FallbackDecoder>(*std::move(made), cap, std::move(cpu));
  const DeviceReport report = decoder->Report();
  LogInfo("device_used", "device {device} computes, {name}, its experts {experts}, {bytes} bytes in use",
          {{"device", choice.device},
           {"name", report.name},
           {"experts", report.experts},
           {"bytes", report.memory_used}});
  FallbackDecoder* const device = decoder.get();
  return ChosenDecoder{std::move(decoder), device};
}

}  // namespace omni
