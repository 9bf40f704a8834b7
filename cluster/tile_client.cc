#include "cluster/tile_client.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/ask_peers.h"
#include "cluster/tile_fill.h"
#include "store/partial/partial_start.h"

namespace omni {
namespace {

constexpr size_t kMaxManifestBytes = size_t{64} << 20;

absl::StatusOr<std::string> FetchManifest(TilePeer& peer, const std::string& model_hash,
                                          const std::string& name) {
  std::string text;
  const absl::Status status =
      peer.FetchFile(model_hash, name, 0, [&](std::string_view piece) -> absl::Status {
        if (piece.size() > kMaxManifestBytes - text.size()) {
          return absl::DataLossError(
              absl::StrCat(peer.address(), ": sends a ", name, " longer than any manifest"));
        }
        text += piece;
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  return text;
}

absl::Status FetchRest(TilePeer& peer, const std::string& model_hash, const std::string& name,
                       IncomingFile& file, OwnError& own) {
  return peer.FetchFile(model_hash, name, file.size(),
                        [&](std::string_view piece) { return own.Of(file.Append(piece)); });
}

absl::Status BeginFrom(TilePeer& peer, const std::string& model_hash, PartialStart& start, OwnError& own) {
  absl::StatusOr<std::string> model = FetchManifest(peer, model_hash, kModelFile);
  if (!model.ok()) return model.status();
  absl::StatusOr<std::string> deltas = FetchManifest(peer, model_hash, kDeltasFile);
  if (!deltas.ok()) return deltas.status();
  const absl::Status set = own.Of(start.SetManifests(model_hash, *std::move(model), *std::move(deltas)));
  if (!set.ok()) return set;
  while (!start.missing().empty()) {
    const std::string name = start.missing().begin()->first;
    absl::StatusOr<IncomingFile> file = start.BeginFile(name);
    if (!file.ok()) return own.Of(file.status());
    if (absl::Status s = FetchRest(peer, model_hash, name, *file, own); !s.ok()) return s;
    if (absl::Status s = own.Of(start.FinishFile(name, *std::move(file))); !s.ok()) return s;
  }
  return own.Of(start.Finish());
}

}  // namespace

absl::StatusOr<std::unique_ptr<PartialModel>> OpenOrBeginPartial(const std::string& dir,
                                                                 const std::string& model_hash,
                                                                 const FillOptions& options) {
  if (PartialStart::IsNeeded(dir)) {
    absl::StatusOr<PartialStart> start = PartialStart::Begin(dir);
    if (!start.ok()) return start.status();
    const absl::Status begun =
        AskPeers(options, absl::StrCat(dir, ": the tile tables of model ", model_hash),
                 [&](TilePeer& peer, OwnError& own) { return BeginFrom(peer, model_hash, *start, own); });
    if (!begun.ok()) return begun;
  }
  absl::StatusOr<std::unique_ptr<PartialModel>> model = PartialModel::Open(dir);
  if (model.ok() && (*model)->hash() != model_hash) {
    return absl::FailedPreconditionError(absl::StrCat(dir, ": holds the model ", (*model)->hash(),
                                                      ", asked for is ", model_hash,
                                                      "; give another directory, or an empty one"));
  }
  return model;
}

absl::Status FillRegions(PartialModel& model, std::span<const RegionId> regions, const FillOptions& options) {
  // Of an earlier fill that ended with an error.
  if (absl::Status s = model.Commit(); !s.ok()) return s;
  absl::StatusOr<std::vector<TilePlace>> missing = model.MissingTiles(regions);
  if (!missing.ok()) return missing.status();
  if (missing->empty()) return absl::OkStatus();
  const TileSink sink = {[&](TilePlace tile, std::string_view bytes) { return model.Add(tile, bytes); },
                         [&] { return model.Commit(); }};
  return FetchTiles(model, *std::move(missing), sink, options);
}

absl::Status FillFiles(PartialModel& model, const FillOptions& options) {
  for (const std::string& name : model.MissingFiles()) {
    const absl::Status filled =
        AskPeers(options, model.files().PathOf(name), [&](TilePeer& peer, OwnError& own) -> absl::Status {
          absl::StatusOr<IncomingFile> file = model.BeginFile(name);
          if (!file.ok()) return own.Of(file.status());
          if (absl::Status s = FetchRest(peer, model.hash(), name, *file, own); !s.ok()) return s;
          return own.Of(file->Finish());
        });
    if (!filled.ok()) return filled;
  }
  return absl::OkStatus();
}

}  // namespace omni
