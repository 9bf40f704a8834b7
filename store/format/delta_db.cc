#include "store/format/delta_db.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include <absl/strings/str_cat.h>
#include <rocksdb/db.h>

#include "engine/base/threads.h"
#include "store/file/rocks.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

constexpr RocksKind kKind = {"a delta database of this program", "copy them again or pack the model again"};

absl::Status Convert(const std::string& path, const rocksdb::Status& s) { return FromRocks(path, kKind, s); }

rocksdb::Options BaseOptions() {
  rocksdb::Options options = RocksOptions();
  options.max_file_opening_threads = 1;  // there are few files
  return options;
}

// Reading needs CURRENT, the manifest it names, and the tables.
bool NeededForReading(const std::string& name) {
  return name == "CURRENT" || name.rfind("MANIFEST-", 0) == 0 ||
         (name.size() > 4 && name.compare(name.size() - 4, 4, ".sst") == 0);
}

}  // namespace

void DeltaDigest::Add(std::string_view key, std::string_view value) {
  for (const std::string_view part : {key, value}) {
    const uint32_t length = static_cast<uint32_t>(part.size());
    hash_.Update(&length, sizeof length);
    hash_.Update(part);
  }
  ++keys_;
}

struct DeltaDbWriter::Impl {
  std::string path;
  std::unique_ptr<rocksdb::DB> db;
};

DeltaDbWriter::DeltaDbWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DeltaDbWriter::DeltaDbWriter(DeltaDbWriter&&) noexcept = default;
DeltaDbWriter::~DeltaDbWriter() = default;

absl::StatusOr<DeltaDbWriter> DeltaDbWriter::Create(const std::string& path) {
  if (absl::Status s = CheckThreads(kRocksWriteThreads, "write the database of tiles"); !s.ok()) return s;
  rocksdb::Options options = BaseOptions();
  options.create_if_missing = true;
  options.error_if_exists = true;
  options.write_dbid_to_manifest = false;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status s = rocksdb::DB::Open(options, path, &db);
  if (!s.ok()) return Convert(path, s);
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->db.reset(db);
  return DeltaDbWriter(std::move(impl));
}

absl::Status DeltaDbWriter::Put(std::string_view key, std::string_view value) {
  rocksdb::WriteOptions options;
  options.disableWAL = true;  // an unfinished database is thrown away whole
  return Convert(impl_->path, impl_->db->Put(options, ToSlice(key), ToSlice(value)));
}

absl::Status DeltaDbWriter::Finish() {
  const std::string& path = impl_->path;
  rocksdb::Status s = impl_->db->Flush({});
  if (s.ok()) {
    rocksdb::CompactRangeOptions compact;
    compact.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
    s = impl_->db->CompactRange(compact, nullptr, nullptr);
  }
  if (s.ok()) s = impl_->db->Close();
  impl_->db.reset();
  if (!s.ok()) return Convert(path, s);
  absl::StatusOr<std::vector<std::string>> names = ListFiles(path);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    if (NeededForReading(name)) continue;
    const std::string file = path + "/" + name;
    std::error_code error;
    fs::remove_all(file, error);
    if (error) return SystemError(file, "remove", error.value());
  }
  // RocksDB has synced the files themselves.
  return SyncDirectory(path);
}

struct DeltaDb::Impl {
  std::string path;
  std::unique_ptr<rocksdb::DB> db;
};

DeltaDb::DeltaDb(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DeltaDb::DeltaDb(DeltaDb&&) noexcept = default;
DeltaDb::~DeltaDb() = default;

absl::StatusOr<DeltaDb> DeltaDb::Open(const std::string& path) {
  if (absl::Status s = CheckThreads(kRocksReadThreads, "read the database of tiles"); !s.ok()) return s;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status s = rocksdb::DB::OpenForReadOnly(BaseOptions(), path, &db);
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->db.reset(db);
  if (!s.ok()) return Convert(path, s);
  return DeltaDb(std::move(impl));
}

absl::Status DeltaDb::ForEach(
    const std::function<absl::Status(std::string_view, std::string_view)>& fn) const {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  const std::unique_ptr<rocksdb::Iterator> it(impl_->db->NewIterator(options));
  for (it->SeekToFirst(); it->Valid(); it->Next()) {
    if (absl::Status status = fn(FromSlice(it->key()), FromSlice(it->value())); !status.ok()) return status;
  }
  return Convert(impl_->path, it->status());
}

absl::StatusOr<std::string> DeltaDb::Get(std::string_view key) const {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  std::string value;
  const rocksdb::Status s = impl_->db->Get(options, ToSlice(key), &value);
  if (!s.ok()) return Convert(impl_->path, s);
  return value;
}

absl::Status ReadDeltaDb(const std::string& path,
                         const std::function<absl::Status(std::string_view, std::string_view)>& fn) {
  absl::StatusOr<DeltaDb> db = DeltaDb::Open(path);
  if (!db.ok()) return db.status();
  return db->ForEach(fn);
}

}  // namespace omni
