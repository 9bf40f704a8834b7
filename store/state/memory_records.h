// Associations on disk: docs/formats/memory.md.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/state/database.h"

namespace omni {

struct Association {
  std::string key, value;  // texts, of any bytes
  friend bool operator==(const Association&, const Association&) = default;
};

// 1 to 64 letters, digits, '.', '-' and '_'.
absl::Status CheckMemoryScope(const std::string& scope);
// The scope's name on disk of one that is `owner`'s alone; an empty owner: the scope's own name.
std::string OwnedMemoryScope(const std::string& owner, const std::string& scope);
// What stands before the names of an owner's scopes; empty for an empty owner, whose names have no '~'.
std::string MemoryOwnerPrefix(const std::string& owner);

inline constexpr size_t kMostKeyBytes = 64 << 10, kMostValueBytes = 1 << 20;
// InvalidArgument: its key or its value is longer than that, or its key is empty.
absl::Status CheckAssociation(const Association& association);

// One on disk.
struct MemoryRecord {
  std::string scope;  // what CheckMemoryScope takes, or OwnedMemoryScope makes of it
  uint64_t number = 0;
  Association association;
};
// Nothing: these are not the bytes of one.
std::optional<MemoryRecord> ReadMemoryRecord(std::string_view key, std::string_view value);
std::pair<std::string, std::string> WriteMemoryRecord(const MemoryRecord& record);  // key and value

// In a folder of its own, which one process has open. Thread-safe.
class MemoryRecords {
 public:
  // `create`: the folder, if it is not there, below one that is; else that is an error. Errors name it:
  // DataLoss for records that cannot be read.
  static absl::StatusOr<std::unique_ptr<MemoryRecords>> Open(const std::string& dir, bool create);

  // All of them or none, after what the scope has already; when it returns OK they survive a power cut. After
  // an error it is unknown whether they are there when the folder is opened the next time. A scope is what
  // CheckMemoryScope takes, or OwnedMemoryScope makes of it.
  absl::Status Add(const std::string& scope, const std::vector<Association>& associations);
  // In the order in which they were added, until `visit` returns false. May not call the records.
  absl::Status ForEach(const std::string& scope,
                       const std::function<bool(const Association& association)>& visit) const;
  // Those of the scope that `forget` says, all or none of them: how many. As Add's when it fails.
  absl::StatusOr<int64_t> Remove(const std::string& scope,
                                 const std::function<bool(const Association& association)>& forget);
  absl::StatusOr<std::vector<std::string>> Scopes() const;  // that have any, ascending

 private:
  explicit MemoryRecords(std::unique_ptr<Database> database) : database_(std::move(database)) {}

  std::unique_ptr<Database> database_;
  uint64_t next_ = 0;  // over all scopes
  std::mutex mutex_;
};

}  // namespace omni
