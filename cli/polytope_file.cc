#include "cli/polytope_file.h"

#include "store/file/files.h"

namespace omni::cli {

absl::StatusOr<std::shared_ptr<const PolytopeSet>> LoadPolytopes(const std::string& path) {
  const absl::StatusOr<std::string> bytes = ReadText(path, kMostPolytopeBytes);
  if (!bytes.ok()) return bytes.status();
  return PolytopeSet::Parse(*bytes, path);
}

}  // namespace omni::cli
