#include "store/partial/repair.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/open_file.h"
#include "store/file/random_reader.h"
#include "store/partial/partial_folder.h"

namespace omni {
namespace {

absl::StatusOr<FileDescriptor> OpenToRepair(const std::string& path, int flags = 0) {
  FileDescriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0666));
  if (file.get() < 0) return SystemError(path, "open to repair it", errno);
  return file;
}

bool AllZeros(const uint8_t* begin, const uint8_t* end) {
  return std::all_of(begin, end, [](uint8_t byte) { return byte == 0; });
}

// Whether the file had another length or another beginning.
absl::StatusOr<bool> RepairFrame(const std::string& path, const PackHeader& header) {
  std::string want = header.Encode();
  want.resize(static_cast<size_t>(header.first_offset), '\0');
  const absl::StatusOr<std::string> start = ReadStart(path, header.first_offset);
  const absl::StatusOr<int64_t> bytes = FileSize(path);
  if (start.ok() && bytes.ok() && *start == want && *bytes == header.file_bytes()) return false;
  if (!start.ok() && !absl::IsNotFound(start.status())) return start.status();
  absl::StatusOr<FileDescriptor> file = OpenToRepair(path, O_CREAT);
  if (!file.ok()) return file.status();
  if (::ftruncate(file->get(), static_cast<off_t>(header.file_bytes())) != 0)
    return SystemError(path, "set the length", errno);
  if (absl::Status s = WriteFully(file->get(), path, 0, want); !s.ok()) return s;
  if (::fsync(file->get()) != 0) return SystemError(path, "fsync", errno);
  return true;
}

}  // namespace

absl::StatusOr<ModelFiles> ReadManifestsForRepair(const std::string& path) {
  absl::StatusOr<std::string> dir = ModelDirectory(path);
  if (!dir.ok()) return dir.status();
  ModelFiles files;
  files.dir = *std::move(dir);
  if (absl::Status s = ReadManifest(&files); !s.ok()) return s;
  if (absl::Status s = ReadDeltaManifest(&files); !s.ok()) return s;
  if (absl::Status s = CheckSameDatabase(files); !s.ok()) return s;
  if (absl::Status s = ReadPresentTiles(&files); !s.ok()) return s;
  return files;
}

absl::StatusOr<FileTable> FindDamagedFiles(const ModelFiles& files) {
  FileTable damaged;
  for (const FileTable* table : {&files.deltas.files, &files.manifest.files}) {
    for (const auto& [name, want] : *table) {
      if (name.starts_with(absl::StrCat(kPacksFolder, "/"))) continue;
      const absl::StatusOr<FileDigest> is = DigestFile(files.PathOf(name));
      const bool missing = absl::IsNotFound(is.status());
      if (missing && files.present.has_value() && table == &files.manifest.files) continue;
      if (!is.ok() && !missing) return is.status();
      if (missing || is->bytes != want.bytes || is->hash != want.hash) damaged[name] = want;
    }
  }
  return damaged;
}

absl::StatusOr<std::vector<std::string>> RepairPackFrames(const ModelFiles& files) {
  absl::StatusOr<std::vector<PackHeader>> packs = StatedPackHeaders(files);
  if (!packs.ok()) return packs.status();
  const std::string folder = files.PathOf(kPacksFolder);
  if (!packs->empty() && !IsDirectory(folder)) {
    if (absl::Status s = MakeDirectory(folder); !s.ok()) return s;
  }
  std::vector<std::string> repaired;
  for (uint32_t pack = 0; pack < packs->size(); ++pack) {
    const absl::StatusOr<bool> had_other = RepairFrame(files.PathOf(PackName(pack)), (*packs)[pack]);
    if (!had_other.ok()) return had_other.status();
    if (*had_other) repaired.push_back(PackName(pack));
  }
  if (repaired.empty()) return repaired;
  for (const std::string& of : {folder, files.dir}) {
    if (absl::Status s = SyncDirectory(of); !s.ok()) return s;
  }
  return repaired;
}

absl::StatusOr<std::vector<TilePlace>> FindDamagedTiles(
    const PartialModel& model, const std::function<bool(int64_t bytes, int64_t total)>& progress) {
  const TileLayout layout(model.files().manifest.config.d);
  std::vector<TilePlace> damaged;
  int64_t bytes = 0, total = 0;
  for (const PackHeader& pack : model.packs()) total += pack.count * pack.stride;
  std::vector<uint8_t> tile;
  for (uint32_t number = 0; number < model.packs().size(); ++number) {
    const PackHeader& pack = model.packs()[number];
    tile.resize(static_cast<size_t>(pack.stride));
    const absl::StatusOr<RandomReader> reader = RandomReader::Open(model.files().PathOf(PackName(number)));
    if (!reader.ok()) return reader.status();
    for (uint32_t i = 0; i < pack.count; ++i) {
      bytes += pack.stride;
      if (!model.Has({number, i}) || model.Ref({number, i}) == nullptr) continue;
      if (progress && i % 64 == 0 && !progress(bytes, total))
        return absl::CancelledError(absl::StrCat(model.files().dir, ": looking for damage was stopped"));
      // A place of the disk that cannot be read any more may be one that can be written.
      const absl::Status read = reader->ReadAt(pack.first_offset + i * pack.stride, tile.data(), pack.stride);
      if (!read.ok() || !CheckTileContent(layout, *model.Ref({number, i}), tile.data()).ok() ||
          !AllZeros(tile.data() + pack.payload, tile.data() + pack.stride)) {
        damaged.push_back({number, i});
      }
    }
  }
  return damaged;
}

absl::Status RewriteTile(const PartialModel& model, TilePlace tile, std::string_view bytes) {
  const TileRef* const ref = model.Ref(tile);
  const std::string path = model.files().PathOf(PackName(tile.pack));
  if (ref == nullptr)
    return absl::InvalidArgumentError(absl::StrCat(path, ": has no tile number ", tile.tile));
  const absl::Status status =
      static_cast<int64_t>(bytes.size()) == model.tile_bytes()
          ? CheckTileContent(TileLayout(model.files().manifest.config.d), *ref,
                             reinterpret_cast<const uint8_t*>(bytes.data()))
          : absl::DataLossError(absl::StrCat("is ", bytes.size(), " bytes, not ", model.tile_bytes()));
  if (!status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat(path, ": tile number ", tile.tile, " of the file ", status.message()));
  }
  absl::StatusOr<FileDescriptor> file = OpenToRepair(path);
  if (!file.ok()) return file.status();
  std::string padded(bytes);
  padded.resize(static_cast<size_t>(model.packs()[tile.pack].stride), '\0');
  if (absl::Status s = WriteFully(file->get(), path, static_cast<int64_t>(ref->offset), padded); !s.ok())
    return s;
  if (::fdatasync(file->get()) != 0) return SystemError(path, "fsync", errno);
  return absl::OkStatus();
}

}  // namespace omni
