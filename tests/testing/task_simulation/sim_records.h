// A store of records on a disk that fails: of a failed write all is there or nothing, which only Recover
// decides; and a server that is killed may leave its last write either way.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "store/state/record_store.h"
#include "tests/testing/task_simulation/task_faults.h"

namespace omni::simulation {

using Records = std::map<std::string, std::string, std::less<>>;

struct RecordChange {
  std::string key;
  std::optional<std::string> before, after;
};

class SimRecords : public RecordStore {
 public:
  enum class Kill { kNo, kBeforeWrite, kAfterWrite };
  using OnApplied = std::function<void(const std::vector<RecordChange>&)>;

  SimRecords(TaskWorld& world, size_t max_changes, OnApplied on_applied)
      : world_(world), max_changes_(max_changes), on_applied_(std::move(on_applied)) {}

  absl::Status Write(const RecordWrites& writes) override;
  absl::Status Recover() override;
  size_t max_changes() const override { return max_changes_; }
  absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const override;
  absl::Status Scan(std::string_view prefix, std::string_view from,
                    const RecordVisitor& visit) const override;

  const Records& records() const { return records_; }
  Kill kill = Kill::kNo;             // of the server, in its next write
  bool killed = false;               // in a write
  std::function<void()> on_recover;  // when it is known what became of a failed write

 private:
  void Apply(const RecordWrites& writes);

  TaskWorld& world_;
  const size_t max_changes_;
  const OnApplied on_applied_;
  Records records_;
  std::optional<RecordWrites> doubtful_;
};

}  // namespace omni::simulation
