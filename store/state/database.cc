#include "store/state/database.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <mutex>
#include <shared_mutex>
#include <system_error>
#include <utility>

#include <absl/base/dynamic_annotations.h>
#include <absl/strings/str_cat.h>
#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include "engine/base/system_error.h"
#include "engine/base/threads.h"
#include "store/file/files.h"
#include "store/file/rocks.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

constexpr RocksKind kKind = {"a database of this program", "bring back a copy, or move the folder away"};

}  // namespace

struct DatabaseBatch::Impl {
  rocksdb::WriteBatch batch;
};

DatabaseBatch::DatabaseBatch() : impl_(std::make_unique<Impl>()) {}
DatabaseBatch::DatabaseBatch(DatabaseBatch&&) noexcept = default;
DatabaseBatch& DatabaseBatch::operator=(DatabaseBatch&&) noexcept = default;
DatabaseBatch::~DatabaseBatch() = default;

// Fail only where a batch has a limit of its own, which these have not.
void DatabaseBatch::Put(std::string_view key, std::string_view value) {
  (void)impl_->batch.Put(ToSlice(key), ToSlice(value));
}
void DatabaseBatch::Delete(std::string_view key) { (void)impl_->batch.Delete(ToSlice(key)); }
int64_t DatabaseBatch::changes() const { return impl_->batch.Count(); }

struct Database::Impl {
  Impl(std::string path, bool sync, rocksdb::Options options)
      : path(std::move(path)), sync(sync), options(std::move(options)) {}

  const std::string path;
  const bool sync;
  const rocksdb::Options options;

  mutable std::shared_mutex mutex;   // held alone to open and close
  std::unique_ptr<rocksdb::DB> db;   // null: closed
  std::atomic<bool> failed = false;  // a write was refused: RocksDB takes no more
  mutable std::atomic<int> snapshots = 0;

  absl::Status Convert(const rocksdb::Status& s) const { return FromRocks(path, kKind, s); }
  absl::Status Closed() const {
    if (failed)
      return absl::UnavailableError(path +
                                    ": a write failed, and the database cannot be opened again so far");
    return absl::FailedPreconditionError(path + ": the database is closed");
  }
  absl::Status InUse(std::string_view what) const {
    return absl::FailedPreconditionError(absl::StrCat(path, ": cannot be ",
                                                      absl::string_view(what.data(), what.size()),
                                                      " while there is a snapshot of it"));
  }

  absl::Status Open() {
    rocksdb::DB* opened = nullptr;
    const rocksdb::Status s = rocksdb::DB::Open(options, path, &opened);
    db.reset(opened);
    return Convert(s);
  }

  // Opens it again if no other thread has done so by now.
  absl::Status Reopen() {
    const std::unique_lock lock(mutex);
    if (!failed) return absl::OkStatus();
    if (snapshots > 0) return InUse("opened again after an error");
    if (db != nullptr) (void)db->Close();
    db.reset();
    if (absl::Status s = Open(); !s.ok()) return s;
    failed = false;
    return absl::OkStatus();
  }

  absl::Status Write(rocksdb::WriteBatch* batch) {
    if (failed) {
      if (absl::Status s = Reopen(); !s.ok()) return s;
    }
    const std::shared_lock lock(mutex);
    if (db == nullptr) return Closed();
    rocksdb::WriteOptions write;
    write.sync = sync;
    // One thread writes the batches of several. The thread sanitizer does not see how RocksDB, which is not
    // built with it, makes that safe.
    ABSL_ANNOTATE_IGNORE_READS_AND_WRITES_BEGIN();
    const rocksdb::Status s = db->Write(write, batch);
    ABSL_ANNOTATE_IGNORE_READS_AND_WRITES_END();
    if (!s.ok()) failed = true;
    return Convert(s);
  }

  absl::Status Sync() {
    const std::shared_lock lock(mutex);
    if (db == nullptr) return Closed();
    if (failed) return absl::UnavailableError(path + ": an earlier write failed; write again first");
    const rocksdb::Status s = db->SyncWAL();
    if (!s.ok()) failed = true;
    return Convert(s);
  }

  absl::Status Close() {
    const std::unique_lock lock(mutex);
    if (db == nullptr) return absl::OkStatus();
    if (snapshots > 0) return InUse("closed");
    // What a failed log holds cannot be written again.
    const rocksdb::Status synced = failed ? rocksdb::Status::OK() : db->SyncWAL();
    const rocksdb::Status closed = db->Close();
    db.reset();
    failed = false;
    return Convert(synced.ok() ? closed : synced);
  }

  absl::StatusOr<std::optional<std::string>> Get(std::string_view key, const rocksdb::Snapshot* at) const {
    const std::shared_lock lock(mutex);
    if (db == nullptr) return Closed();
    rocksdb::ReadOptions read;
    read.snapshot = at;
    std::string value;
    const rocksdb::Status s = db->Get(read, ToSlice(key), &value);
    if (s.IsNotFound()) return std::nullopt;
    if (!s.ok()) return Convert(s);
    return value;
  }

  absl::Status ForEach(std::string_view prefix, std::string_view from, const DatabaseVisitor& visit,
                       const rocksdb::Snapshot* at) const {
    const std::shared_lock lock(mutex);
    if (db == nullptr) return Closed();
    rocksdb::ReadOptions read;
    read.snapshot = at;
    const std::unique_ptr<rocksdb::Iterator> it(db->NewIterator(read));
    for (it->Seek(ToSlice(std::max(prefix, from))); it->Valid() && it->key().starts_with(ToSlice(prefix));
         it->Next()) {
      if (absl::Status s = visit(FromSlice(it->key()), FromSlice(it->value())); !s.ok()) return s;
    }
    return Convert(it->status());
  }
};

Database::Database(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Database::~Database() { (void)Close(); }

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& dir,
                                                         const DatabaseOptions& options) {
  if (absl::Status s = CheckThreads(kRocksWriteThreads, "open a database"); !s.ok()) return s;
  std::error_code error;
  const bool there = fs::exists(fs::path(dir) / "CURRENT", error);
  if (error) return SystemError(dir, "look into", error.value());
  if (!there && !options.create)
    return absl::NotFoundError(dir + ": there is no database; give the folder of one");
  rocksdb::Options rocks = RocksOptions();
  rocks.create_if_missing = options.create;
  rocks.write_buffer_size = static_cast<size_t>(options.memory_bytes);
  const bool sync = options.durability == Durability::kSynced;
  // Acknowledged is safe: a log that is damaged anywhere but where a crash cut it off is an error. Without
  // syncs a power cut may damage it anywhere, and what comes after the damage is lost.
  rocks.wal_recovery_mode = sync ? rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords
                                 : rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  rocks.track_and_verify_wals_in_manifest = true;
  if (!there) {
    if (absl::Status s = MakeDirectory(dir); !s.ok() && !absl::IsAlreadyExists(s)) return s;
    // RocksDB syncs what is in the folder, not the folder's own name.
    const std::string parent = fs::path(dir).lexically_normal().parent_path().string();
    if (absl::Status s = SyncDirectory(parent.empty() ? "." : parent); !s.ok()) return s;
  }
  std::unique_ptr<Impl> impl(new Impl(dir, sync, rocks));
  if (absl::Status s = impl->Open(); !s.ok()) return s;
  return std::unique_ptr<Database>(new Database(std::move(impl)));
}

absl::Status Database::Put(std::string_view key, std::string_view value) {
  DatabaseBatch batch;
  batch.Put(key, value);
  return Write(batch);
}

absl::Status Database::Delete(std::string_view key) {
  DatabaseBatch batch;
  batch.Delete(key);
  return Write(batch);
}

absl::Status Database::Write(const DatabaseBatch& batch) { return impl_->Write(&batch.impl_->batch); }

absl::Status Database::Sync() { return impl_->Sync(); }

absl::StatusOr<std::optional<std::string>> Database::Get(std::string_view key) const {
  return impl_->Get(key, nullptr);
}

absl::Status Database::ForEach(std::string_view prefix, const DatabaseVisitor& visit) const {
  return impl_->ForEach(prefix, "", visit, nullptr);
}

absl::Status Database::ForEachFrom(std::string_view prefix, std::string_view from,
                                   const DatabaseVisitor& visit) const {
  return impl_->ForEach(prefix, from, visit, nullptr);
}

struct Database::Snapshot::Impl {
  const Database::Impl* database;
  const rocksdb::Snapshot* at;  // null: of a closed database
  ~Impl() {
    if (at == nullptr) return;
    database->db->ReleaseSnapshot(at);
    --database->snapshots;
  }
};

Database::Snapshot::Snapshot(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Database::Snapshot::Snapshot(Snapshot&&) noexcept = default;
Database::Snapshot::~Snapshot() = default;

absl::StatusOr<std::optional<std::string>> Database::Snapshot::Get(std::string_view key) const {
  return impl_->database->Get(key, impl_->at);
}

absl::Status Database::Snapshot::ForEach(std::string_view prefix, const DatabaseVisitor& visit) const {
  return impl_->database->ForEach(prefix, "", visit, impl_->at);
}

Database::Snapshot Database::TakeSnapshot() const {
  const std::shared_lock lock(impl_->mutex);
  const rocksdb::Snapshot* at = impl_->db == nullptr ? nullptr : impl_->db->GetSnapshot();
  if (at != nullptr) ++impl_->snapshots;
  return Snapshot(std::unique_ptr<Snapshot::Impl>(new Snapshot::Impl{impl_.get(), at}));
}

absl::Status Database::Close() { return impl_->Close(); }

}  // namespace omni
