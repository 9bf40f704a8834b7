#include "cluster/tile_repair.h"

#include <memory>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/ask_peers.h"
#include "cluster/tile_fill.h"
#include "engine/base/replace_file.h"
#include "store/partial/repair.h"

namespace omni {
namespace {

absl::Status FetchFile(TilePeer& peer, const ModelFiles& files, const std::string& name,
                       const FileDigest& want, OwnError& own) {
  const std::string path = files.PathOf(name);
  absl::StatusOr<FileReplacement> file = FileReplacement::Begin(path);
  if (!file.ok()) return own.status = file.status();
  StreamHash hash;
  int64_t bytes = 0;
  const absl::Status fetched =
      peer.FetchFile(files.manifest.ModelHash().Hex(), name, 0, [&](std::string_view piece) -> absl::Status {
        bytes += static_cast<int64_t>(piece.size());
        if (bytes > want.bytes) return absl::OkStatus();  // told below
        hash.Update(piece);
        return own.Of(file->Append(piece));
      });
  if (!fetched.ok()) return fetched;
  if (bytes != want.bytes || hash.Digest() != want.hash)
    return absl::DataLossError(absl::StrCat(peer.address(), ": has another ", name, " than this copy"));
  if (absl::Status s = file->Commit(); !s.ok()) return own.status = s;
  return absl::OkStatus();
}

}  // namespace

absl::Status RepairTiles(const PartialModel& model, const std::vector<TilePlace>& tiles,
                         const FillOptions& options) {
  if (tiles.empty()) return absl::OkStatus();
  const TileSink sink = {
      [&](TilePlace tile, std::string_view bytes) { return RewriteTile(model, tile, bytes); },
      [] { return absl::OkStatus(); }};
  return FetchTiles(model, tiles, sink, options);
}

absl::StatusOr<RepairReport> RepairModel(const std::string& dir, const FillOptions& options,
                                         const std::function<bool(int64_t, int64_t)>& progress) {
  const absl::StatusOr<ModelFiles> files = ReadManifestsForRepair(dir);
  if (!files.ok()) return files.status();
  RepairReport report;
  const absl::StatusOr<FileTable> damaged = FindDamagedFiles(*files);
  if (!damaged.ok()) return damaged.status();
  for (const auto& [name, want] : *damaged) {
    const absl::Status fetched = AskPeers(options, files->PathOf(name),
                                          [&, &name = name, &want = want](TilePeer& peer, OwnError& own) {
                                            return FetchFile(peer, *files, name, want, own);
                                          });
    if (!fetched.ok()) return fetched;
    report.files.push_back(name);
  }
  const absl::StatusOr<std::vector<std::string>> frames = RepairPackFrames(*files);
  if (!frames.ok()) return frames.status();
  report.files.insert(report.files.end(), frames->begin(), frames->end());

  const absl::StatusOr<std::unique_ptr<PartialModel>> model = PartialModel::Open(files->dir);
  if (!model.ok()) return model.status();
  const absl::StatusOr<std::vector<TilePlace>> tiles = FindDamagedTiles(**model, progress);
  if (!tiles.ok()) return tiles.status();
  if (absl::Status s = RepairTiles(**model, *tiles, options); !s.ok()) return s;
  report.tiles = static_cast<int64_t>(tiles->size());
  report.checked_tiles = (*model)->present_tiles();
  report.whole = (*model)->whole();
  return report;
}

}  // namespace omni
