// A model directory's two manifests, and the files they list: what everything that reads a model looks at
// first.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/text/tokenizer.h"
#include "store/format/manifest.h"
#include "store/format/tile.h"

namespace omni {

struct ModelFiles {
  std::string dir;  // without a slash at the end
  Manifest manifest;
  DeltaManifest deltas;
  int64_t manifest_bytes = 0;  // of model.json and deltas.json

  std::string PathOf(const std::string& name) const { return dir + "/" + name; }
};

// `path` as a directory that looks like a packed model, without slashes at the end. The error says what it is
// instead.
absl::StatusOr<std::string> ModelDirectory(const std::string& path);

// Each reads one manifest of `files->dir`. model.json may list the files of a model and no others.
absl::Status ReadManifest(ModelFiles* files);
absl::Status ReadDeltaManifest(ModelFiles* files);
// deltas.json describes the database that model.json names.
absl::Status CheckSameDatabase(const ModelFiles& files);

// Listed files that are not there, and files and empty folders that are not listed.
struct MisplacedFiles {
  std::vector<std::string> missing, unlisted;
};
absl::StatusOr<MisplacedFiles> FindMisplacedFiles(const ModelFiles& files);
absl::Status MissingFile(const std::string& path);
absl::Status UnlistedFile(const std::string& path);

// Both manifests, and every file in its place: the first error of the above.
absl::StatusOr<ModelFiles> ReadModelFiles(const std::string& path);

// The files of the delta database against their hashes: RocksDB is shown only bytes that are known to be the
// packer's.
absl::Status CheckDeltaFiles(const ModelFiles& files);

// The tokenizer, whose file must have its hash and fit the config. `bytes`, if not null, receives the file.
absl::StatusOr<Tokenizer> ReadTokenizer(const ModelFiles& files, std::string* bytes);

// The headers of all pack files, by number, read alone; the files must be as long as the manifest and the
// header say.
absl::StatusOr<std::vector<PackHeader>> ReadPackHeaders(const ModelFiles& files);
absl::StatusOr<PackHeader> ReadPackHeader(const ModelFiles& files, const std::string& name);
// The header of a pack file that begins with `start`, its first PackHeader::kBytes or more.
absl::StatusOr<PackHeader> ParsePackHeader(const ModelFiles& files, const std::string& name,
                                           std::string_view start);

absl::StatusOr<int64_t> FileSize(const std::string& path);  // of a regular file

// "PATH: N bytes long, should be M; ..."
absl::Status WrongSize(const std::string& path, int64_t bytes, int64_t want);

// What to do about bytes that are not the packer's.
inline constexpr char kDamagedCure[] = "; the file is damaged: copy it again or pack the model again";

}  // namespace omni
