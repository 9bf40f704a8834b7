#include "cluster/node_device.h"

#include <utility>

#include "engine/model/session_state.h"

namespace omni {

absl::Status TakeDevice(const ModelConfig& config, WorkerPool& pool, const NodeDuties& duties,
                        DeviceChoice& choice, std::unique_ptr<DeviceExpertRunner>& runner) {
  constexpr int64_t kSessions = 16;
  runner = nullptr;
  absl::StatusOr<std::shared_ptr<DevicePool>> opened = OpenDevice(choice);
  if (!opened.ok()) return opened.status();
  choice.pool = *opened;
  if (choice.pool == nullptr) {
    choice.kind = DeviceChoice::Kind::kCpu;
    return absl::OkStatus();
  }
  choice.experts =
      duties.has_all ? DeviceSettings::ExpertsAt::kResidentOrOutside : DeviceSettings::ExpertsAt::kOutside;
  const int64_t keep_free = duties.coordinates ? kSessions * SessionState::BytesFor(config) : 0;
  absl::StatusOr<std::unique_ptr<DeviceExpertRunner>> made =
      DeviceExpertRunner::Create(config, pool, choice.pool, keep_free);
  if (!made.ok()) return DeviceRefused(choice, made.status());
  runner = *std::move(made);
  return absl::OkStatus();
}

}  // namespace omni
