#include "store/file/rocks.h"

#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <memory>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <rocksdb/env.h>

namespace omni {
namespace {

// With -1, the default, RocksDB 7.8 keeps every file open and has lost blobs of compacted databases opened
// read-only.
constexpr int kMaxOpenFiles = 512;

// RocksDB logs into the database's folder unless it is given another logger.
class NullLogger : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

absl::string_view View(std::string_view s) { return {s.data(), s.size()}; }

}  // namespace

absl::Status FromRocks(const std::string& path, const RocksKind& kind, const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string error = status.ToString(), text = absl::StrCat(path, ": ", error);
  const auto says = [&](int number) { return absl::StrContains(error, std::strerror(number)); };
  if (status.IsNoSpace() || says(ENOSPC) || says(EDQUOT))
    return absl::ResourceExhaustedError(text + "; free some space or choose another disk");
  if (says(EMFILE)) return absl::ResourceExhaustedError(text + "; allow more open files (ulimit -n)");
  // It has no code for either, and calls a file that it may not read corrupt in some places.
  if (status.IsIOError() && absl::StrContains(error, "/LOCK: ")) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": is open already, here or in another process (",
                                                      error, "); end that one first"));
  }
  if (says(EACCES) || says(EPERM)) return absl::PermissionDeniedError(text);
  if (status.IsIOError() || says(EIO)) return absl::UnavailableError(text);
  if (status.IsCorruption())
    return absl::DataLossError(absl::StrCat(text, "; the files are damaged: ", View(kind.damage_cure)));
  if (status.IsInvalidArgument() || status.IsNotFound() || status.IsNotSupported()) {
    return absl::InvalidArgumentError(
        absl::StrCat(text, "; not ", View(kind.name), ": ", View(kind.damage_cure)));
  }
  return absl::UnavailableError(text);
}

rocksdb::Options RocksOptions() {
  rocksdb::Options options;
  options.info_log = std::make_shared<NullLogger>();
  options.max_open_files = kMaxOpenFiles;
  options.db_host_id = "";
  options.compression = rocksdb::kNoCompression;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  return options;
}

}  // namespace omni
