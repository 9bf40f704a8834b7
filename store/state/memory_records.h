// Associations on disk: docs/formats/memory.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/state/database.h"

namespace omni {

struct Association {
  std::string key, value;  // texts, of any bytes
  friend bool operator==(const Association&, const Association&) = default;
};

inline constexpr size_t kMostKeyBytes = 64 << 10, kMostValueBytes = 1 << 20;

// In a folder of its own, which one process has open. Thread-safe.
class MemoryRecords {
 public:
  // `create`: the folder, if it is not there, below one that is; else that is an error. Errors name it:
  // DataLoss for records that cannot be read.
  static absl::StatusOr<std::unique_ptr<MemoryRecords>> Open(const std::string& dir, bool create);

  // All of them or none, after what the scope has already; when it returns OK they survive a power cut. After
  // an error it is unknown whether they are there when the folder is opened the next time. A scope is 1 to 64
  // letters, digits, '.', '-' and '_'.
  absl::Status Add(const std::string& scope, const std::vector<Association>& associations);
  // In the order in which they were added. May not call the records.
  absl::Status ForEach(const std::string& scope,
                       const std::function<void(const Association& association)>& visit) const;
  absl::StatusOr<std::vector<std::string>> Scopes() const;  // that have any, ascending

 private:
  explicit MemoryRecords(std::unique_ptr<Database> database) : database_(std::move(database)) {}

  std::unique_ptr<Database> database_;
  uint64_t next_ = 0;  // over all scopes
  std::mutex mutex_;
};

}  // namespace omni
