// Tiles from many nodes at once.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include <absl/status/status.h>

#include "cluster/tile_client.h"
#include "store/partial/partial_model.h"

namespace omni {

// Where tiles go. Called from several threads at once.
struct TileSink {
  // DataLoss or InvalidArgument: the peer sent something else; all other errors are this machine's, and end
  // the fetching.
  std::function<absl::Status(TilePlace, std::string_view)> put;
  // After about FillOptions::commit_bytes of them, and at the end, whatever that is.
  std::function<absl::Status()> commit;
};

// Fetches tiles of the model, each until one of the peers has given it. Errors as FillRegions.
absl::Status FetchTiles(const PartialModel& model, const std::vector<TilePlace>& tiles, const TileSink& sink,
                        const FillOptions& options);

}  // namespace omni
