#include "store/partial/partial_model.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/replace_file.h"
#include "store/format/delta_db.h"
#include "store/format/region_tiles.h"
#include "store/format/tile_index.h"
#include "store/partial/partial_folder.h"

namespace omni {
namespace {

PresentTiles AllPresent(PresentTiles tiles) {
  for (int64_t number = 0; number < tiles.tiles(); ++number) tiles.Set(number, true);
  return tiles;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PartialModel>> PartialModel::Open(const std::string& path) {
  absl::StatusOr<std::string> dir = ModelDirectory(path);
  if (!dir.ok()) return dir.status();
  FileDescriptor lock;
  if (IsDirectory(absl::StrCat(*dir, "/", kPartialFolder))) {
    absl::StatusOr<FileDescriptor> locked = LockPartial(*dir);
    if (!locked.ok()) return locked.status();
    lock = *std::move(locked);
  }
  absl::StatusOr<ModelFiles> files = ReadModelFiles(*dir, {.tiles = false, .shared = false});
  if (!files.ok()) return files.status();
  absl::StatusOr<std::vector<PackHeader>> packs = ReadPackHeaders(*files);
  if (!packs.ok()) return packs.status();
  std::unique_ptr<PartialModel> model(
      new PartialModel(*std::move(files), *std::move(packs), std::move(lock)));
  if (absl::Status s = model->ReadTables(); !s.ok()) return s;
  if (!model->whole()) {
    // What a process that was killed had written and not recorded, or recorded as gone and not given back.
    std::vector<bool> kept(static_cast<size_t>(model->stored_tiles()));
    for (int64_t n = 0; n < model->stored_tiles(); ++n) kept[static_cast<size_t>(n)] = model->present_.Has(n);
    (void)model->PunchAllBut(kept);  // only room is lost if it cannot be done
  }
  return model;
}

PartialModel::PartialModel(ModelFiles files, std::vector<PackHeader> packs, FileDescriptor lock)
    : files_(std::move(files)),
      packs_(std::move(packs)),
      layout_(files_.manifest.config.d),
      hash_(files_.manifest.ModelHash().Hex()),
      numbers_(PresentTiles::ForPacks(packs_)),
      lock_(std::move(lock)),
      pack_files_(packs_.size()),
      present_(whole() ? AllPresent(numbers_) : *files_.present) {}

absl::Status PartialModel::ReadTables() {
  // A record of other pack files is said to be one there.
  absl::Status status = CheckDeltaFiles(files_);
  if (!status.ok()) return status;
  absl::StatusOr<DeltaDb> db = DeltaDb::Open(files_.PathOf(kDeltasFolder));
  if (!db.ok()) return db.status();
  absl::StatusOr<std::unique_ptr<TileIndex>> index = TileIndex::Read(files_, *db, packs_);
  if (!index.ok()) return index.status();
  if (!whole()) status = CheckRegionsPresent(files_, packs_, **index, {});
  if (!status.ok()) return status;
  refs_.resize(static_cast<size_t>(stored_tiles()), TileRef{{}, kNone, 0, 0});
  for (int64_t tile = 0; tile < (*index)->tiles(); ++tile) {
    const TileRef& ref = (*index)->Stored(static_cast<uint32_t>(tile)).ref;
    const auto in_pack = static_cast<uint32_t>(packs_[ref.pack].TileAt(ref.offset));
    refs_[static_cast<size_t>(numbers_.Number({ref.pack, in_pack}))] = ref;
  }
  tiles_by_region_ = TilesByRegion(files_.manifest.config, numbers_, packs_, **index);
  return absl::OkStatus();
}

absl::Status PartialModel::CheckRegions(std::span<const RegionId> regions) const {
  for (const RegionId region : regions) {
    if (region.value >= 0 && region.index() < tiles_by_region_.size()) continue;
    return absl::InvalidArgumentError(absl::StrCat(files_.dir, ": there is no region ", region.value,
                                                   "; the model has ", tiles_by_region_.size(), ", from 0"));
  }
  return absl::OkStatus();
}

std::vector<bool> PartialModel::TilesOf(std::span<const RegionId> regions) const {
  std::vector<bool> needed(static_cast<size_t>(stored_tiles()));
  for (const RegionId region : regions) {
    for (const uint32_t tile : tiles_by_region_[region.index()]) needed[tile] = true;
  }
  return needed;
}

const TileRef* PartialModel::Ref(TilePlace tile) const {
  const int64_t number = numbers_.Number(tile);
  if (number < 0 || refs_[static_cast<size_t>(number)].pack == kNone) return nullptr;
  return &refs_[static_cast<size_t>(number)];
}

bool PartialModel::Has(TilePlace tile) const {
  const int64_t number = numbers_.Number(tile);
  const std::lock_guard lock(state_mutex_);
  return number >= 0 && present_.Has(number);
}

bool PartialModel::Holds(RegionId region) const {
  if (!CheckRegions({&region, 1}).ok()) return false;
  const std::vector<uint32_t>& tiles = tiles_by_region_[region.index()];
  const std::lock_guard lock(state_mutex_);
  return std::all_of(tiles.begin(), tiles.end(), [&](uint32_t tile) { return present_.Has(tile); });
}

std::vector<RegionId> PartialModel::HeldRegions() const {
  const std::lock_guard lock(state_mutex_);
  return omni::HeldRegions(tiles_by_region_, present_);
}

int64_t PartialModel::present_tiles() const {
  const std::lock_guard lock(state_mutex_);
  return present_.count();
}

absl::StatusOr<std::vector<TilePlace>> PartialModel::MissingTiles(std::span<const RegionId> regions) const {
  if (absl::Status s = CheckRegions(regions); !s.ok()) return s;
  std::vector<bool> needed = TilesOf(regions);
  std::vector<TilePlace> missing;
  const std::lock_guard lock(state_mutex_);
  for (const auto* underway : {&added_, &synced_}) {
    for (const uint32_t tile : *underway) needed[tile] = false;
  }
  for (int64_t number = 0; number < stored_tiles(); ++number) {
    if (needed[static_cast<size_t>(number)] && !present_.Has(number))
      missing.push_back(numbers_.Place(number));
  }
  return missing;
}

absl::Status PartialModel::Named(TilePlace tile, const absl::Status& status) const {
  return absl::Status(status.code(), absl::StrCat(files_.PathOf(PackName(tile.pack)), ": tile number ",
                                                  tile.tile, " of the file ", status.message()));
}

int64_t PartialModel::OffsetOf(TilePlace tile) const {
  return packs_[tile.pack].first_offset + tile.tile * packs_[tile.pack].stride;
}

absl::StatusOr<int> PartialModel::PackFile(uint32_t pack) const {
  const std::lock_guard lock(open_mutex_);
  FileDescriptor& file = pack_files_[pack];
  if (file.get() < 0) {
    const std::string path = files_.PathOf(PackName(pack));
    file = FileDescriptor(::open(path.c_str(), (whole() ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW));
    if (file.get() < 0) return SystemError(path, "open", errno);
  }
  return file.get();
}

absl::Status PartialModel::Add(TilePlace tile, std::string_view bytes) {
  const TileRef* const ref = Ref(tile);
  if (ref == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(files_.dir, ": the model has no tile number ", tile.tile, " of pack file ", tile.pack));
  }
  if (Has(tile)) return absl::OkStatus();
  absl::Status status =
      static_cast<int64_t>(bytes.size()) == tile_bytes()
          ? CheckTileContent(layout_, *ref, reinterpret_cast<const uint8_t*>(bytes.data()))
          : absl::DataLossError(absl::StrCat("is ", bytes.size(), " bytes, not ", tile_bytes()));
  if (!status.ok()) return Named(tile, status);
  const absl::StatusOr<int> file = PackFile(tile.pack);
  if (!file.ok()) return file.status();
  const std::shared_lock room(room_mutex_);
  status = WriteFully(*file, files_.PathOf(PackName(tile.pack)), OffsetOf(tile), bytes);
  if (!status.ok()) return status;
  const std::lock_guard lock(state_mutex_);
  added_.push_back(static_cast<uint32_t>(numbers_.Number(tile)));
  return absl::OkStatus();
}

absl::Status PartialModel::SyncAdded() {
  std::map<uint32_t, std::vector<uint32_t>> by_pack;
  {
    const std::lock_guard lock(state_mutex_);
    for (const uint32_t number : std::exchange(added_, {}))
      by_pack[numbers_.Place(number).pack].push_back(number);
  }
  absl::Status status;
  for (const auto& [pack, numbers] : by_pack) {
    // A sync that failed may have dropped what it was to write, and the next one would not say so: those
    // tiles are to be written again.
    if (::fdatasync(*PackFile(pack)) != 0) {
      status.Update(SystemError(files_.PathOf(PackName(pack)), "fsync", errno));
      continue;
    }
    const std::lock_guard lock(state_mutex_);
    synced_.insert(synced_.end(), numbers.begin(), numbers.end());
  }
  return status;
}

absl::Status PartialModel::Record(const PresentTiles& present) {
  return ReplaceFile(files_.PathOf(kPresentFile), present.Encode(files_.manifest.ModelHash()));
}

absl::Status PartialModel::Commit() {
  const std::lock_guard one(commit_mutex_);
  const absl::Status synced = SyncAdded();
  std::unique_lock lock(state_mutex_);
  if (synced_.empty()) return synced;
  PresentTiles next = present_;
  for (const uint32_t number : synced_) next.Set(number, true);
  lock.unlock();
  if (absl::Status s = Record(next); !s.ok()) return s;
  lock.lock();
  present_ = std::move(next);
  synced_.clear();
  return synced;
}

absl::Status PartialModel::ReleaseAllBut(std::span<const RegionId> regions) {
  if (absl::Status s = CheckRegions(regions); !s.ok()) return s;
  if (whole()) return absl::OkStatus();
  const std::lock_guard one(commit_mutex_);
  const std::unique_lock room(room_mutex_);
  std::vector<bool> kept = TilesOf(regions);
  std::unique_lock lock(state_mutex_);
  for (auto* underway : {&added_, &synced_}) std::erase_if(*underway, [&](uint32_t n) { return !kept[n]; });
  PresentTiles next = present_;
  for (int64_t n = 0; n < stored_tiles(); ++n) next.Set(n, next.Has(n) && kept[static_cast<size_t>(n)]);
  const bool changed = next.count() != present_.count();
  lock.unlock();
  if (changed) {
    if (absl::Status s = Record(next); !s.ok()) return s;
    lock.lock();
    present_ = std::move(next);
    lock.unlock();
  }
  return PunchAllBut(kept);
}

absl::Status PartialModel::PunchAllBut(const std::vector<bool>& kept) {
  for (int64_t begin = 0, end; begin < stored_tiles(); begin = end) {
    const TilePlace first = numbers_.Place(begin);
    for (end = begin + 1; end < stored_tiles(); ++end) {
      if (numbers_.Place(end).pack != first.pack ||
          kept[static_cast<size_t>(end)] != kept[static_cast<size_t>(begin)])
        break;
    }
    if (kept[static_cast<size_t>(begin)]) continue;
    const absl::StatusOr<int> file = PackFile(first.pack);
    if (!file.ok()) return file.status();
    const int64_t bytes = (end - begin) * packs_[first.pack].stride;
    if (::fallocate(*file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(OffsetOf(first)),
                    static_cast<off_t>(bytes)) == 0) {
      continue;
    }
    if (errno == EOPNOTSUPP) return absl::OkStatus();  // a file system without holes: nothing to give back
    return SystemError(files_.PathOf(PackName(first.pack)), "give back room", errno);
  }
  return absl::OkStatus();
}

absl::Status PartialModel::Read(TilePlace tile, uint8_t* to) const {
  if (!Has(tile)) {
    return absl::NotFoundError(
        absl::StrCat(files_.dir, ": tile number ", tile.tile, " of pack file ", tile.pack, " is not here"));
  }
  const absl::StatusOr<int> file = PackFile(tile.pack);
  if (!file.ok()) return file.status();
  for (int64_t done = 0; done < tile_bytes();) {
    const ssize_t n = ::pread(*file, to + done, static_cast<size_t>(tile_bytes() - done),
                              static_cast<off_t>(OffsetOf(tile) + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError(files_.PathOf(PackName(tile.pack)), "read", errno);
    if (n == 0) return Named(tile, absl::DataLossError("lies beyond the end of it"));
    done += n;
  }
  const absl::Status status = CheckTileSum(layout_, *Ref(tile), to);
  return status.ok() ? status : Named(tile, status);
}

std::vector<std::string> PartialModel::MissingFiles() const {
  std::vector<std::string> missing;
  for (const char* name : {kSharedFile, kTokenizerFile}) {
    if (::access(files_.PathOf(name).c_str(), F_OK) != 0) missing.push_back(name);
  }
  return missing;
}

absl::StatusOr<IncomingFile> PartialModel::BeginFile(const std::string& name) {
  const std::vector<std::string> missing = MissingFiles();
  if (whole() || std::find(missing.begin(), missing.end(), name) == missing.end())
    return absl::InvalidArgumentError(absl::StrCat(files_.PathOf(name), ": is not missing"));
  absl::StatusOr<std::string> temporary = IncomingPath(files_.dir, name);
  if (!temporary.ok()) return temporary.status();
  return IncomingFile::Open(*std::move(temporary), files_.PathOf(name), files_.manifest.files.at(name));
}

}  // namespace omni
