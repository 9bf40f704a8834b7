// Records in memory, for tests of what is decided over them; with failures on demand.
#pragma once

#include <algorithm>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "store/state/record_store.h"

namespace omni::testing {

// Thread-safe.
class MemoryRecords : public RecordStore {
 public:
  explicit MemoryRecords(size_t max_changes = 20'000) : max_changes_(max_changes) {}

  absl::Status Write(const RecordWrites& writes) override {
    const std::lock_guard lock(mutex_);
    largest_ = std::max(largest_, writes.size());
    ++writes_;
    if (!failure_.ok()) {
      doubtful_ = writes;
      return failure_;
    }
    Apply(writes);
    return absl::OkStatus();
  }
  absl::Status Recover() override {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return failure_;
    if (doubtful_.has_value() && keeps_) Apply(*doubtful_);
    doubtful_.reset();
    return absl::OkStatus();
  }
  size_t max_changes() const override { return max_changes_; }
  absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const override {
    const std::lock_guard lock(mutex_);
    const auto there = records_.find(key);
    if (there == records_.end()) return std::nullopt;
    return there->second;
  }
  absl::Status Scan(std::string_view prefix, std::string_view from,
                    const RecordVisitor& visit) const override {
    const auto records = all();
    for (auto at = records.lower_bound(std::max(prefix, from));
         at != records.end() && at->first.starts_with(prefix) && visit(at->first, at->second); ++at) {
    }
    return absl::OkStatus();
  }

  // Writes fail with it until it is OK; what the failed one wrote is then kept or not.
  void Fail(absl::Status failure, bool keeps) {
    const std::lock_guard lock(mutex_);
    failure_ = std::move(failure);
    keeps_ = keeps;
  }
  std::map<std::string, std::string, std::less<>> all() const {
    const std::lock_guard lock(mutex_);
    return records_;
  }
  size_t largest() const { return largest_; }  // of all writes, in changes
  int64_t writes() const { return writes_; }

 private:
  void Apply(const RecordWrites& writes) {
    for (const auto& [key, value] : writes) {
      if (value.has_value()) {
        records_[key] = *value;
      } else {
        records_.erase(key);
      }
    }
  }

  const size_t max_changes_;
  mutable std::mutex mutex_;
  std::map<std::string, std::string, std::less<>> records_;
  std::optional<RecordWrites> doubtful_;
  absl::Status failure_;
  bool keeps_ = false;
  size_t largest_ = 0;
  int64_t writes_ = 0;
};

}  // namespace omni::testing
