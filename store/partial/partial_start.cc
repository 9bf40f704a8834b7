#include "store/partial/partial_start.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/replace_file.h"
#include "store/partial/partial_folder.h"

namespace omni {
namespace {

namespace fs = std::filesystem;

absl::Status MakeFolder(const std::string& path) {
  if (::mkdir(path.c_str(), 0777) != 0 && errno != EEXIST)
    return SystemError(path, "create the directory", errno);
  return absl::OkStatus();
}

absl::Status RemoveAll(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  return error ? SystemError(path, "remove", error.value()) : absl::OkStatus();
}

// Nothing is there, or only what an earlier start made.
absl::Status CheckOurs(const std::string& dir) {
  const std::set<std::string> ours = {kPartialFolder, kDeltasFolder, kDeltasFile, kPacksFolder};
  std::error_code error;
  std::string other;
  bool begun = false;
  for (fs::directory_iterator it(dir, error); !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    begun = begun || name == kPartialFolder;
    if (name == kModelFile) {
      return absl::FailedPreconditionError(
          absl::StrCat(dir, ": is a model or a part of one already; it can be filled as it is"));
    }
    if (!ours.contains(name) || other.empty()) other = name;
  }
  if (error) return SystemError(dir, "list", error.value());
  if (other.empty() || (begun && ours.contains(other))) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(dir, ": holds ", other, " and no model; give an empty directory to be filled"));
}

}  // namespace

bool PartialStart::IsNeeded(const std::string& dir) {
  std::error_code error;
  return !fs::exists(absl::StrCat(dir, "/", kModelFile), error);
}

absl::StatusOr<PartialStart> PartialStart::Begin(const std::string& path) {
  std::string dir = path;
  while (dir.size() > 1 && dir.back() == '/') dir.pop_back();
  const bool there = IsDirectory(dir);
  if (!there) {
    if (absl::Status s = MakeDirectory(dir); !s.ok()) return s;
  }
  // An earlier start may have made it and been stopped here. A place given to us may lie where we may not
  // look.
  const fs::path parent = fs::path(dir).parent_path();
  if (absl::Status s = SyncDirectory(parent.empty() ? "." : parent.string()); !s.ok() && !there) return s;
  if (absl::Status s = CheckOurs(dir); !s.ok()) return s;
  if (absl::Status s = MakeFolder(absl::StrCat(dir, "/", kPartialFolder)); !s.ok()) return s;
  absl::StatusOr<FileDescriptor> lock = LockPartial(dir);
  if (!lock.ok()) return lock.status();
  if (absl::Status s = CheckOurs(dir); !s.ok()) return s;  // another may have been there just now
  return PartialStart(std::move(dir), *std::move(lock));
}

absl::Status PartialStart::SetManifests(const std::string& model_hash, std::string model_json,
                                        std::string deltas_json) {
  absl::StatusOr<Manifest> manifest = Manifest::Parse(files_.PathOf(kModelFile), model_json);
  if (!manifest.ok()) return manifest.status();
  if (const std::string hash = manifest->ModelHash().Hex(); hash != model_hash) {
    return absl::InvalidArgumentError(absl::StrCat(files_.PathOf(kModelFile), ": what came is of the model ",
                                                   hash, ", asked for was ", model_hash));
  }
  const std::string deltas_path = files_.PathOf(kDeltasFile);
  absl::StatusOr<DeltaManifest> deltas = DeltaManifest::Parse(deltas_path, deltas_json);
  if (!deltas.ok()) return deltas.status();
  if (absl::Status s = CheckDeltaNames(deltas_path, *deltas); !s.ok()) return s;
  files_.manifest = *std::move(manifest);
  files_.deltas = *std::move(deltas);
  if (absl::Status s = CheckSameDatabase(files_); !s.ok()) return s;
  absl::StatusOr<std::vector<PackHeader>> packs = StatedPackHeaders(files_);
  if (!packs.ok()) return packs.status();
  packs_ = *std::move(packs);
  model_json_ = std::move(model_json);

  const absl::StatusOr<std::string> old = ReadText(deltas_path, static_cast<int64_t>(deltas_json.size()));
  if (!old.ok() || *old != deltas_json) {
    for (const char* name : {kDeltasFolder, "partial/incoming"}) {
      if (absl::Status s = RemoveAll(files_.PathOf(name)); !s.ok()) return s;
    }
    if (absl::Status s = Put(kDeltasFile, deltas_json); !s.ok()) return s;
  }
  if (absl::Status s = MakeFolder(files_.PathOf(kDeltasFolder)); !s.ok()) return s;
  return FindMissing();
}

absl::Status PartialStart::FindMissing() {
  missing_ = files_.deltas.files;
  std::error_code error;
  std::vector<std::string> unlisted;
  for (fs::directory_iterator it(files_.PathOf(kDeltasFolder), error);
       !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = absl::StrCat(kDeltasFolder, "/", it->path().filename().string());
    const auto want = missing_.find(name);
    const absl::StatusOr<FileDigest> is = DigestFile(files_.PathOf(name));
    if (want != missing_.end() && is.ok() && is->bytes == want->second.bytes &&
        is->hash == want->second.hash) {
      missing_.erase(want);
    } else {
      unlisted.push_back(files_.PathOf(name));
    }
  }
  if (error) return SystemError(files_.PathOf(kDeltasFolder), "list", error.value());
  for (const std::string& path : unlisted) {
    if (absl::Status s = RemoveAll(path); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::StatusOr<IncomingFile> PartialStart::BeginFile(const std::string& name) {
  const auto want = missing_.find(name);
  if (want == missing_.end())
    return absl::InvalidArgumentError(absl::StrCat(files_.PathOf(name), ": is not missing"));
  absl::StatusOr<std::string> temporary = IncomingPath(files_.dir, name);
  if (!temporary.ok()) return temporary.status();
  return IncomingFile::Open(*std::move(temporary), files_.PathOf(name), want->second);
}

absl::Status PartialStart::FinishFile(const std::string& name, IncomingFile file) {
  if (absl::Status s = file.Finish(); !s.ok()) return s;
  missing_.erase(name);
  return absl::OkStatus();
}

absl::Status PartialStart::Put(const std::string& name, std::string_view bytes) {
  absl::StatusOr<std::string> temporary = IncomingPath(files_.dir, name);
  if (!temporary.ok()) return temporary.status();
  std::error_code ignored;
  fs::remove(*temporary, ignored);
  absl::StatusOr<IncomingFile> file = IncomingFile::Open(
      *std::move(temporary), files_.PathOf(name), {static_cast<int64_t>(bytes.size()), ContentHash(bytes)});
  if (!file.ok()) return file.status();
  if (absl::Status s = file->Append(bytes); !s.ok()) return s;
  return file->Finish();
}

absl::Status PartialStart::MakePack(const std::string& name, const PackHeader& header) {
  const std::string path = files_.PathOf(name);
  const FileDescriptor file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (file.get() < 0) return SystemError(path, "create", errno);
  if (::ftruncate(file.get(), static_cast<off_t>(header.file_bytes())) != 0)
    return SystemError(path, "set the length", errno);
  if (absl::Status s = WriteFully(file.get(), path, 0, header.Encode()); !s.ok()) return s;
  if (::fsync(file.get()) != 0) return SystemError(path, "fsync", errno);
  return absl::OkStatus();
}

absl::Status PartialStart::Finish() {
  if (model_json_.empty() || !missing_.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(files_.dir, ": ", missing_.size(), " files of the model's database have not come yet"));
  }
  if (absl::Status s = CheckDeltaFiles(files_); !s.ok()) return s;
  if (absl::Status s = RemoveAll(files_.PathOf(kPacksFolder)); !s.ok()) return s;
  if (absl::Status s = MakeFolder(files_.PathOf(kPacksFolder)); !s.ok()) return s;
  for (uint32_t pack = 0; pack < packs_.size(); ++pack) {
    if (absl::Status s = MakePack(PackName(pack), packs_[pack]); !s.ok()) return s;
  }
  const std::string record = PresentTiles::ForPacks(packs_).Encode(files_.manifest.ModelHash());
  if (absl::Status s = ReplaceFile(files_.PathOf(kPresentFile), record); !s.ok()) return s;
  for (const std::string& folder : {files_.PathOf(kPacksFolder), files_.dir}) {
    if (absl::Status s = SyncDirectory(folder); !s.ok()) return s;
  }
  return Put(kModelFile, model_json_);
}

}  // namespace omni
