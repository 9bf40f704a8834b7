// A model directory's two manifests, and the files they list: what everything that reads a model looks at
// first.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/text/tokenizer.h"
#include "store/format/manifest.h"
#include "store/format/present_tiles.h"
#include "store/format/tile.h"

namespace omni {

// What a directory that holds a part of a model has beside the model's own files (docs/formats.md).
inline constexpr char kPartialFolder[] = "partial";
inline constexpr char kPresentFile[] = "partial/present";

struct ModelFiles {
  std::string dir;  // without a slash at the end
  Manifest manifest;
  DeltaManifest deltas;
  std::optional<PresentTiles> present;  // none: the directory is a whole model
  int64_t manifest_bytes = 0;           // of model.json and deltas.json

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
// deltas.json may list files of the database's folder and no others. `path` is for the message.
absl::Status CheckDeltaNames(const std::string& path, const DeltaManifest& deltas);
// files->present, if the directory holds a part of a model. After ReadManifest.
absl::Status ReadPresentTiles(ModelFiles* files);

// Listed files that are not there, and files and empty folders that are not listed. What stands in
// kPartialFolder is listed if files.present is.
struct MisplacedFiles {
  std::vector<std::string> missing, unlisted;
};
absl::StatusOr<MisplacedFiles> FindMisplacedFiles(const ModelFiles& files);
absl::Status MissingFile(const std::string& path);
absl::Status UnlistedFile(const std::string& path);

// What of a model is going to be read.
struct ModelPart {
  bool tiles = true;   // all of them; false: whoever reads some asks first which are there
  bool shared = true;  // shared weights and tokenizer
};

// Both manifests, and every file in its place: the first error of the above. FailedPrecondition: the
// directory holds a part of a model, which is less than `wanted`.
absl::StatusOr<ModelFiles> ReadModelFiles(const std::string& path, const ModelPart& wanted = {});

// The files of the delta database against their hashes: RocksDB is shown only bytes that are known to be the
// packer's.
absl::Status CheckDeltaFiles(const ModelFiles& files);

// The tokenizer, whose file must have its hash and fit the config. `bytes`, if not null, receives the file.
absl::StatusOr<Tokenizer> ReadTokenizer(const ModelFiles& files, std::string* bytes);

// The headers that the pack files must have, as follows from model.json alone. DataLoss: its figures do not
// fit each other; then nothing may be made of them.
absl::StatusOr<std::vector<PackHeader>> StatedPackHeaders(const ModelFiles& files);

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
