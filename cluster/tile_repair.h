// Damaged models made whole again from other nodes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/tile_client.h"

namespace omni {

struct RepairReport {
  std::vector<std::string> files;  // fetched whole; and pack files whose length or beginning was put right
  int64_t tiles = 0;               // fetched
  int64_t checked_tiles = 0;       // all that should be there
  bool whole = true;               // false: the directory holds a part of a model
};

// Looks for everything in `dir`, a model or a part of one, that is not what its manifests say, and puts it
// right; what must be fetched comes from the peers. Of a sound model nothing is written. Why this is safe:
// store/partial/repair.h. Files that are not listed stay. Waits; `progress` as of FindDamagedTiles. Errors as
// FillRegions; what was repaired until then, is. DataLoss: the manifests themselves are damaged.
absl::StatusOr<RepairReport> RepairModel(
    const std::string& dir, const FillOptions& options,
    const std::function<bool(int64_t bytes, int64_t total)>& progress = nullptr);

// Fetches these tiles, which were found damaged, and writes them in their places.
absl::Status RepairTiles(const PartialModel& model, const std::vector<TilePlace>& tiles,
                         const FillOptions& options);

}  // namespace omni
