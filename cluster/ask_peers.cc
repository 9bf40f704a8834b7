#include "cluster/ask_peers.h"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "cluster/rate_limit.h"
#include "engine/base/log.h"

namespace omni {

absl::Status AskPeers(const FillOptions& options, const std::string& what,
                      const std::function<absl::Status(TilePeer&, OwnError&)>& ask) {
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
      OwnError own;
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

}  // namespace omni
