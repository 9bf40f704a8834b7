#include "cluster/tile_client.h"

#include <condition_variable>
#include <mutex>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "cluster/rate_limit.h"
#include "cluster/tile_peer.h"
#include "engine/base/log.h"
#include "store/partial/partial_start.h"

namespace omni {
namespace {

constexpr size_t kMaxManifestBytes = size_t{64} << 20;

// An answer of this machine's, of which no peer can cure anything.
struct Own {
  absl::Status status;

  // Passes on what comes of a peer's bytes: these errors are the peer's, all others ours.
  absl::Status Of(const absl::Status& s) {
    if (!s.ok() && !absl::IsDataLoss(s) && !absl::IsInvalidArgument(s) && !absl::IsFailedPrecondition(s))
      status = s;
    return s;
  }
};

// Asks one peer after the other until one gives `what`, in rounds with longer and longer pauses.
absl::Status AskInTurn(const FillOptions& options, const std::string& what,
                       const std::function<absl::Status(TilePeer&, Own&)>& ask) {
  std::vector<std::unique_ptr<TilePeer>> peers;
  for (const std::string& address : options.peers)
    peers.push_back(std::make_unique<TilePeer>(address, options.credentials, options.call_timeout));
  const std::stop_callback cancel(options.stop, [&] {
    for (const auto& peer : peers) peer->Cancel();
  });
  std::mutex mutex;
  std::condition_variable_any pause;
  std::vector<std::string> reasons;
  for (int attempt = 0; attempt < options.attempts && !peers.empty(); ++attempt) {
    if (attempt > 0) {
      std::unique_lock lock(mutex);
      pause.wait_for(lock, options.stop, Backoff(options.backoff, attempt), [] { return false; });
    }
    reasons.clear();
    for (const auto& peer : peers) {
      Own own;
      const absl::Status status = ask(*peer, own);
      if (options.stop.stop_requested()) return absl::CancelledError(absl::StrCat(what, ": was stopped"));
      if (status.ok() || !own.status.ok()) return own.status;
      reasons.emplace_back(status.message());
      LogWarning("peer_not_used", "{peer} does not give {what}: {reason}",
                 {{"peer", peer->address()}, {"what", what}, {"reason", status.message()}});
    }
  }
  return absl::UnavailableError(
      absl::StrCat(what, ": no peer gives it; name another, or start one that has the model (",
                   peers.empty() ? "none was named" : absl::StrJoin(reasons, "; "), ")"));
}

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
                       IncomingFile& file, Own& own) {
  return peer.FetchFile(model_hash, name, file.size(),
                        [&](std::string_view piece) { return own.Of(file.Append(piece)); });
}

absl::Status BeginFrom(TilePeer& peer, const std::string& model_hash, PartialStart& start, Own& own) {
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
        AskInTurn(options, absl::StrCat(dir, ": the tile tables of model ", model_hash),
                  [&](TilePeer& peer, Own& own) { return BeginFrom(peer, model_hash, *start, own); });
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

absl::Status FillFiles(PartialModel& model, const FillOptions& options) {
  for (const std::string& name : model.MissingFiles()) {
    const absl::Status filled =
        AskInTurn(options, model.files().PathOf(name), [&](TilePeer& peer, Own& own) -> absl::Status {
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
