// The RocksDB that holds the tile tables: written once by the packer, then only read. The one user of RocksDB
// here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/file/files.h"
#include "store/file/hash.h"

namespace omni {

// XXH3-128 over, in ascending key order: u32 key length, key, u32 value length, value.
class DeltaDigest {
 public:
  void Add(std::string_view key, std::string_view value);
  Hash128 hash() const { return hash_.Digest(); }
  int64_t keys() const { return keys_; }

 private:
  StreamHash hash_;
  int64_t keys_ = 0;
};

class DeltaDbWriter {
 public:
  static absl::StatusOr<DeltaDbWriter> Create(const std::string& path);  // `path` does not exist yet
  DeltaDbWriter(DeltaDbWriter&&) noexcept;
  ~DeltaDbWriter();

  // Keys in any order, each once.
  absl::Status Put(std::string_view key, std::string_view value);
  // Flushes, compacts, closes and removes the files that reading does not need; what is left is synced.
  absl::Status Finish();

 private:
  struct Impl;
  explicit DeltaDbWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A database opened for reading, from any number of threads. Creates, locks and changes nothing in its
// directory, which may be read-only.
class DeltaDb {
 public:
  static absl::StatusOr<DeltaDb> Open(const std::string& path);
  DeltaDb(DeltaDb&&) noexcept;
  ~DeltaDb();

  // Calls `fn` for every entry in ascending key order, until it fails.
  absl::Status ForEach(
      const std::function<absl::Status(std::string_view key, std::string_view value)>& fn) const;
  absl::StatusOr<std::string> Get(std::string_view key) const;

 private:
  struct Impl;
  explicit DeltaDb(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Open and ForEach in one.
absl::Status ReadDeltaDb(const std::string& path,
                         const std::function<absl::Status(std::string_view key, std::string_view value)>& fn);

}  // namespace omni
