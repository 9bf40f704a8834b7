// Damage of a model directory, and putting the model's own bytes back in its place. The one exception to the
// rule that a whole model is never written: it becomes what it was, and nothing else.
//
// Every write is of bytes that are known to be the model's, to a place that holds others: killed at any
// moment, a repair leaves less damage than there was, and can be begun again. Readers may go on; they check
// what they read.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/format/model_files.h"
#include "store/partial/partial_model.h"

namespace omni {

// The manifests, by which all else is judged. DataLoss: they are damaged themselves; the message says what
// to do.
absl::StatusOr<ModelFiles> ReadManifestsForRepair(const std::string& dir);

// The listed files that are missing or have other bytes, without the pack files; of a part of a model,
// without what it need not have.
absl::StatusOr<FileTable> FindDamagedFiles(const ModelFiles& files);

// Gives the pack files their lengths and what stands before the first tile, which follow from model.json; a
// missing one is made, without tiles. Returns the names of those that had others.
absl::StatusOr<std::vector<std::string>> RepairPackFrames(const ModelFiles& files);

// The tiles that should be there and have other bytes, or have others than zeros behind them. `progress` gets
// the bytes read so far and those to read; false: stop, with Cancelled.
absl::StatusOr<std::vector<TilePlace>> FindDamagedTiles(
    const PartialModel& model, const std::function<bool(int64_t bytes, int64_t total)>& progress);

// Writes a tile in its place and syncs it. DataLoss: `bytes` is not that tile; nothing was written. May be
// called for several tiles at once.
absl::Status RewriteTile(const PartialModel& model, TilePlace tile, std::string_view bytes);

}  // namespace omni
