#include "store/model/model_dir.h"

#include <utility>

#include "store/model/resident_model.h"
#include "store/model/streamed_model.h"

namespace omni {

absl::StatusOr<std::unique_ptr<ModelDir>> ModelDir::Open(const std::string& path,
                                                         const OpenOptions& options) {
  if (options.streamed()) return StreamedModel::Open(path, options);
  absl::StatusOr<std::unique_ptr<ResidentModel>> model = ResidentModel::Load(path);
  if (!model.ok()) return model.status();
  return std::unique_ptr<ModelDir>(*std::move(model));
}

absl::StatusOr<int64_t> ModelDir::ResidentBytes(const std::string& path) {
  ModelFiles files;
  absl::StatusOr<std::string> dir = ModelDirectory(path);
  if (!dir.ok()) return dir.status();
  files.dir = *std::move(dir);
  if (absl::Status s = ReadManifest(&files); !s.ok()) return s;
  int64_t bytes = files.manifest.counts.inline_tiles * TileLayout(files.manifest.config.d).payload();
  for (const auto& [name, digest] : files.manifest.files) bytes += digest.bytes;
  return bytes;
}

}  // namespace omni
