// A database on disk that is written while it is used.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

enum class Durability {
  kSynced,    // a write that was acknowledged survives a power cut
  kUnsynced,  // it survives the end of the process, however that comes; a power cut may take the last ones
};

struct DatabaseOptions {
  Durability durability = Durability::kSynced;  // a matter of the opening, not of the files
  bool create = true;                           // if it is not there; its parent folder must be
  int64_t memory_bytes = 16 << 20;              // of writes that are kept in memory beside the log
};

// Changes that are made together.
class DatabaseBatch {
 public:
  DatabaseBatch();
  DatabaseBatch(DatabaseBatch&&) noexcept;
  DatabaseBatch& operator=(DatabaseBatch&&) noexcept;
  ~DatabaseBatch();

  void Put(std::string_view key, std::string_view value);
  void Delete(std::string_view key);  // no error if there is none
  int64_t changes() const;

 private:
  friend class Database;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Called in ascending order of the keys' bytes, with bytes that are valid during the call. An error ends the
// walk and is its result. May not call the database.
using DatabaseVisitor = std::function<absl::Status(std::string_view key, std::string_view value)>;

// Keys and values of any bytes, in a folder of its own; one process has it open. Of a batch all is there
// after a crash or nothing, and after a write all that were acknowledged before it. Damage is found by
// checksums: no call ever gives other bytes than were written. Errors name the folder (store/file/rocks.h).
//
// Thread-safe.
class Database {
 public:
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& dir,
                                                        const DatabaseOptions& options);
  ~Database();  // as Close, whose error is lost
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // An error of these leaves it unknown whether the change will be there when the database is opened the next
  // time; it is not there now. The next write then opens the database again first (so that a disk that was
  // full may be used once it is not); that is refused while there are snapshots, which go on reading.
  absl::Status Put(std::string_view key, std::string_view value);
  absl::Status Delete(std::string_view key);
  absl::Status Write(const DatabaseBatch& batch);
  // Makes all acknowledged writes survive a power cut; for kUnsynced.
  absl::Status Sync();

  absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const;  // none: no such key
  // All keys that begin with `prefix`, as they are when the call begins.
  absl::Status ForEach(std::string_view prefix, const DatabaseVisitor& visit) const;
  // Of those the ones that are not before `from`.
  absl::Status ForEachFrom(std::string_view prefix, std::string_view from,
                           const DatabaseVisitor& visit) const;

  // The database as it is now, whatever is written later. Must go before the database.
  class Snapshot {
   public:
    Snapshot(Snapshot&&) noexcept;
    ~Snapshot();
    absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const;
    absl::Status ForEach(std::string_view prefix, const DatabaseVisitor& visit) const;

   private:
    friend class Database;
    struct Impl;
    explicit Snapshot(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
  };
  Snapshot TakeSnapshot() const;

  // Syncs and closes, unless there is a snapshot; afterwards every call is refused.
  absl::Status Close();

 private:
  struct Impl;
  explicit Database(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
