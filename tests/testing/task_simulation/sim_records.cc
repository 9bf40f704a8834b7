#include "tests/testing/task_simulation/sim_records.h"

#include <algorithm>
#include <utility>

namespace omni::simulation {

absl::Status SimRecords::Write(const RecordWrites& writes) {
  if (doubtful_.has_value()) world_.world.Fail("something is written after a failed write, without Recover");
  if (writes.size() > max_changes_)
    world_.world.Fail(absl::StrCat("a write of ", writes.size(), " changes, of at most ", max_changes_));
  if (kill != Kill::kNo) {
    killed = true;
    if (std::exchange(kill, Kill::kNo) == Kill::kAfterWrite) Apply(writes);
    return absl::UnavailableError("killed");
  }
  if (world_.trouble.full) {
    world_.Count(TaskFault::disk_full);
    doubtful_ = writes;
    return absl::ResourceExhaustedError("the disk is full");
  }
  if (world_.Chance(world_.trouble.write)) {
    doubtful_ = writes;
    return absl::UnavailableError("the disk failed");
  }
  Apply(writes);
  return absl::OkStatus();
}

absl::Status SimRecords::Recover() {
  if (world_.trouble.full || world_.Chance(world_.trouble.write))
    return absl::UnavailableError("the disk fails still");
  if (doubtful_.has_value()) {
    const RecordWrites writes = *std::exchange(doubtful_, std::nullopt);
    const bool kept = world_.Chance(0.5);
    world_.Count(kept ? TaskFault::failed_write_kept : TaskFault::failed_write_lost);
    if (kept) Apply(writes);
  }
  if (on_recover) on_recover();
  return absl::OkStatus();
}

void SimRecords::Apply(const RecordWrites& writes) {
  std::vector<RecordChange> changes;
  for (const auto& [key, value] : writes) {
    RecordChange& change = changes.emplace_back(RecordChange{key, std::nullopt, value});
    const auto there = records_.find(key);
    if (there != records_.end()) change.before = there->second;
    if (value.has_value()) {
      records_[key] = *value;
    } else if (there != records_.end()) {
      records_.erase(there);
    }
  }
  on_applied_(changes);
}

absl::StatusOr<std::optional<std::string>> SimRecords::Get(std::string_view key) const {
  if (world_.Chance(world_.trouble.read)) {
    world_.Count(TaskFault::read_failed);
    return absl::UnavailableError("the disk cannot be read");
  }
  const auto there = records_.find(key);
  if (there == records_.end()) return std::nullopt;
  return there->second;
}

absl::Status SimRecords::Scan(std::string_view prefix, std::string_view from,
                              const RecordVisitor& visit) const {
  if (world_.Chance(world_.trouble.read)) {
    world_.Count(TaskFault::read_failed);
    return absl::UnavailableError("the disk cannot be read");
  }
  for (auto at = records_.lower_bound(std::max(prefix, from));
       at != records_.end() && at->first.starts_with(prefix) && visit(at->first, at->second); ++at) {
  }
  return absl::OkStatus();
}

}  // namespace omni::simulation
