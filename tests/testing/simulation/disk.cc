#include "tests/testing/simulation/disk.h"

#include "engine/base/simulated.h"
#include "store/state/database.h"

namespace omni::simulation {

thread_local Disks* Disks::present_ = nullptr;

Disks::Disks(World& world) : world_(world) { present_ = this; }
Disks::~Disks() { present_ = nullptr; }
Disk& Disks::Of(const std::string& folder) {
  return present_->disks_.try_emplace(folder, present_->world_).first->second;
}

absl::Status Disk::Write(const DiskBatch& batch, bool synced) {
  Reopen();
  if (failing > 0 && world_.chance().Of(failing)) {
    world_.Count(FaultKind::disk_error);
    doubtful_ = batch;
    return absl::UnavailableError("the disk failed");
  }
  Apply(batch);
  if (synced && !OMNI_PLANTED(kAcknowledgedUnsynced)) unsynced_.clear();
  return absl::OkStatus();
}

void Disk::Apply(const DiskBatch& batch) {
  DiskBatch undo;
  for (const auto& [key, value] : batch) {
    const auto there = files.find(key);
    undo.emplace_back(key, there == files.end() ? std::nullopt : std::optional(there->second));
    if (value.has_value()) {
      files[key] = *value;
    } else {
      files.erase(key);
    }
  }
  unsynced_.push_back(std::move(undo));
}

void Disk::Reopen() {
  if (!doubtful_.has_value()) return;
  const DiskBatch batch = *std::exchange(doubtful_, std::nullopt);
  if (world_.chance().Of(0.5)) return;
  Apply(batch);
}

void Disk::PowerCut() {
  Reopen();
  auto lost = static_cast<size_t>(world_.chance().Below(static_cast<int64_t>(unsynced_.size()) + 1));
  if (lost > 0) world_.Count(FaultKind::unsynced_write_lost);
  for (; lost > 0; --lost) {
    const DiskBatch undo = std::move(unsynced_.back());
    unsynced_.pop_back();
    for (const auto& [key, value] : undo) {
      if (value.has_value()) {
        files[key] = *value;
      } else {
        files.erase(key);
      }
    }
  }
  unsynced_.clear();
}

void Disk::Erase() {
  files.clear();
  unsynced_.clear();
  doubtful_.reset();
}

}  // namespace omni::simulation

namespace omni {

using simulation::Disk;
using simulation::DiskBatch;
using simulation::Disks;

struct DatabaseBatch::Impl {
  DiskBatch changes;
};
DatabaseBatch::DatabaseBatch() : impl_(std::make_unique<Impl>()) {}
DatabaseBatch::DatabaseBatch(DatabaseBatch&&) noexcept = default;
DatabaseBatch& DatabaseBatch::operator=(DatabaseBatch&&) noexcept = default;
DatabaseBatch::~DatabaseBatch() = default;
void DatabaseBatch::Put(std::string_view key, std::string_view value) {
  impl_->changes.emplace_back(std::string(key), std::string(value));
}
void DatabaseBatch::Delete(std::string_view key) {
  impl_->changes.emplace_back(std::string(key), std::nullopt);
}

struct Database::Impl {
  Disk& disk;
  bool synced;
};
Database::Database(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Database::~Database() = default;
absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& dir,
                                                         const DatabaseOptions& options) {
  Disk& disk = Disks::Of(dir);
  disk.Reopen();
  return std::unique_ptr<Database>(
      new Database(std::make_unique<Impl>(Impl{disk, options.durability == Durability::kSynced})));
}
absl::Status Database::Put(std::string_view key, std::string_view value) {
  return impl_->disk.Write({{std::string(key), std::string(value)}}, impl_->synced);
}
absl::Status Database::Delete(std::string_view key) {
  return impl_->disk.Write({{std::string(key), std::nullopt}}, impl_->synced);
}
absl::Status Database::Write(const DatabaseBatch& batch) {
  return impl_->disk.Write(batch.impl_->changes, impl_->synced);
}
absl::Status Database::Sync() {
  impl_->disk.Sync();
  return absl::OkStatus();
}
absl::StatusOr<std::optional<std::string>> Database::Get(std::string_view key) const {
  const auto there = impl_->disk.files.find(key);
  if (there == impl_->disk.files.end()) return std::nullopt;
  return there->second;
}
absl::Status Database::ForEach(std::string_view prefix, const DatabaseVisitor& visit) const {
  const auto& files = impl_->disk.files;
  for (auto it = files.lower_bound(prefix); it != files.end() && it->first.starts_with(prefix); ++it) {
    if (absl::Status s = visit(it->first, it->second); !s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace omni
