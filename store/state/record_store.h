// Where records of bytes are kept that change together or not at all.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/state/database.h"

namespace omni {

// By key: its new value; none: it goes.
using RecordWrites = std::map<std::string, std::optional<std::string>, std::less<>>;

// Gets a key and its value, valid during the call; false: enough. May not call the store.
using RecordVisitor = std::function<bool(std::string_view key, std::string_view value)>;

// One thread writes; any may read meanwhile, and sees whole writes only, none that does not last.
class RecordStore {
 public:
  virtual ~RecordStore() = default;

  // All or nothing, lasting when it returns. After an error it is unknown whether they were made, and nothing
  // is written until Recover. ResourceExhausted: there is no room for them.
  virtual absl::Status Write(const RecordWrites& writes) = 0;
  // After an error: decides which way it was, for good. An error: that cannot be said yet.
  virtual absl::Status Recover() = 0;
  // How many changes one Write may have, and how many bytes of keys and values; 0: as many as there are.
  virtual size_t max_changes() const = 0;
  virtual size_t max_bytes() const { return 0; }

  virtual absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const = 0;
  // The keys that begin with `prefix`, ascending, from `from` on (empty: from the first), as they were at one
  // time.
  virtual absl::Status Scan(std::string_view prefix, std::string_view from,
                            const RecordVisitor& visit) const = 0;
};

// In a database of this process, which outlives it, opened kSynced.
std::unique_ptr<RecordStore> MakeDatabaseRecordStore(Database& database);

}  // namespace omni
