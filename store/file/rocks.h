// What all uses of RocksDB have in common. For the few files that see RocksDB.
#pragma once

#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <rocksdb/options.h>
#include <rocksdb/slice.h>
#include <rocksdb/status.h>

namespace omni {

// What a database is to the people who read its errors.
struct RocksKind {
  std::string_view name;         // "a delta database of this program"
  std::string_view damage_cure;  // what to do if its files are damaged: "copy them again"
};

// The one conversion of RocksDB's errors; each begins with `path`. Damage is DataLoss, a disk without room
// ResourceExhausted, a database that is open elsewhere FailedPrecondition, what is no such database
// InvalidArgument, and what else the system refuses Unavailable or ResourceExhausted, never damage.
absl::Status FromRocks(const std::string& path, const RocksKind& kind, const rocksdb::Status& status);

// Threads that RocksDB starts while a database is open to be read, and to be written, which includes one that
// compacts. Refused one, it throws or ends the process: to be asked for before (CheckThreads).
constexpr int kRocksReadThreads = 3, kRocksWriteThreads = 4;

// Without log files, statistics and compression (what is kept here does not compress), and with a bounded
// number of open files.
rocksdb::Options RocksOptions();

inline rocksdb::Slice ToSlice(std::string_view s) { return {s.data(), s.size()}; }
inline std::string_view FromSlice(const rocksdb::Slice& s) { return {s.data(), s.size()}; }

}  // namespace omni
