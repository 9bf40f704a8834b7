#include "store/pack/pack.h"

#include <memory>

#include <absl/status/statusor.h>

#include "store/pack/pack_source.h"
#include "store/pack/pack_writer.h"
#include "store/pack/packed_source.h"

namespace omni {

absl::Status PackModel(const std::string& checkpoint, const std::string& dir, const PackOptions& options) {
  absl::StatusOr<std::unique_ptr<PackSource>> source = OpenCheckpointSource(checkpoint);
  if (!source.ok()) return source.status();
  return WriteModel(**source, dir, options);
}

absl::Status RepackModel(const std::string& dir, const std::string& out, const PackOptions& options) {
  absl::StatusOr<std::unique_ptr<PackSource>> source = OpenPackedSource(dir);
  if (!source.ok()) return source.status();
  return WriteModel(**source, out, options);
}

}  // namespace omni
