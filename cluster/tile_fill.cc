#include "cluster/tile_fill.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <system_error>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "cluster/rate_limit.h"
#include "cluster/tile_peer.h"
#include "engine/base/log.h"
#include "engine/base/threads.h"

namespace omni {
namespace {

using Clock = RateLimit::Clock;

constexpr int kFetchesOfPeer = 2;  // one that is sent while the tiles of another are checked and written

class Fill {
 public:
  Fill(const PartialModel& model, const std::vector<TilePlace>& missing, const TileSink& sink,
       const FillOptions& options)
      : model_(model),
        sink_(sink),
        options_(options),
        limit_(options.bytes_per_second),
        begun_(Clock::now()) {
    const int64_t tile = model.tile_bytes();
    batch_ = static_cast<size_t>(std::max<int64_t>(1, options.batch_bytes / tile));
    commit_ = std::max<int64_t>(1, options.commit_bytes / tile);
    progress_.tiles_wanted = static_cast<int64_t>(missing.size());
    progress_.bytes_wanted = progress_.tiles_wanted * tile;
    wanted_.assign(missing.begin(), missing.end());
    for (const std::string& address : options.peers)
      peers_.push_back(std::make_unique<Peer>(address, options));
  }

  absl::Status Run() {
    const std::stop_callback cancel(options_.stop, [this] {
      Stop(absl::CancelledError(absl::StrCat(model_.files().dir, ": filling it was stopped")));
    });
    const int count =
        std::max(1, std::min(options_.fetches, kFetchesOfPeer * static_cast<int>(peers_.size())));
    std::vector<std::thread> threads;
    try {
      for (int i = 1; i < count; ++i) threads.emplace_back([this] { Work(); });
    } catch (const std::system_error& error) {
      Stop(ThreadsRefused(count, "fetch tiles", error.code().value()));
    }
    Work();
    for (std::thread& thread : threads) thread.join();
    const absl::Status recorded = sink_.commit();
    return status_.ok() ? recorded : status_;
  }

 private:
  struct Peer {
    Peer(const std::string& address, const FillOptions& options)
        : node(address, options.credentials, options.call_timeout) {}
    TilePeer node;
    std::set<TilePlace> refused;  // missing there, or wrong
    int fetches = 0;              // under way
    int failures = 0;             // in a row
    bool given_up = false;
    Clock::time_point not_before{};
    std::string reason = "was not asked";  // what came of it last
  };

  void Stop(const absl::Status& status) {
    const std::lock_guard lock(mutex_);
    if (status_.ok()) status_ = status;
    for (const auto& peer : peers_) peer->node.Cancel();
    changed_.notify_all();
  }

  // One of the threads: batch after batch, from whichever peer can give one.
  void Work() {
    std::unique_lock lock(mutex_);
    while (status_.ok()) {
      Clock::time_point wake = Clock::time_point::max();
      std::vector<TilePlace> batch;
      Peer* const peer = Choose(Clock::now(), &batch, &wake);
      if (peer == nullptr) {
        if (under_way_ == 0 && wake == Clock::time_point::max()) {
          if (!wanted_.empty()) status_ = NobodyHas();
          break;
        }
        if (wake == Clock::time_point::max()) {
          changed_.wait(lock);
        } else {
          changed_.wait_until(lock, wake);
        }
        continue;
      }
      ++under_way_;
      ++peer->fetches;
      const Clock::time_point begin =
          limit_.Take(Clock::now(), static_cast<int64_t>(batch.size()) * model_.tile_bytes());
      while (status_.ok() && Clock::now() < begin) changed_.wait_until(lock, begin);
      if (status_.ok()) {
        lock.unlock();
        Fetched got = Fetch(*peer, batch);
        lock.lock();
        const bool more = !got.added.empty();
        Settle(*peer, batch, std::move(got));
        if (more && options_.progress) {
          lock.unlock();
          Report();
          lock.lock();
        }
      }
      --under_way_;
      --peer->fetches;
      changed_.notify_all();
    }
    changed_.notify_all();
  }

  // The peer with the fewest fetches that has something of what is wanted, and takes a batch out of that.
  // Else null, and `*wake` is when one may be asked again; max: only what is under way can change anything.
  Peer* Choose(Clock::time_point now, std::vector<TilePlace>* batch, Clock::time_point* wake) {
    std::vector<Peer*> order;
    for (const auto& peer : peers_) order.push_back(peer.get());
    std::stable_sort(order.begin(), order.end(),
                     [](const Peer* a, const Peer* b) { return a->fetches < b->fetches; });
    for (Peer* const peer : order) {
      if (peer->given_up || peer->fetches >= kFetchesOfPeer) continue;
      const auto has = [&](const TilePlace& tile) { return !peer->refused.contains(tile); };
      if (peer->not_before > now) {
        if (std::any_of(wanted_.begin(), wanted_.end(), has)) *wake = std::min(*wake, peer->not_before);
        continue;
      }
      std::vector<TilePlace> not_there;
      while (!wanted_.empty() && batch->size() < batch_) {
        (has(wanted_.front()) ? *batch : not_there).push_back(wanted_.front());
        wanted_.pop_front();
      }
      wanted_.insert(wanted_.begin(), not_there.begin(), not_there.end());
      if (batch->empty()) continue;
      std::sort(batch->begin(), batch->end());
      return peer;
    }
    return nullptr;
  }

  struct Fetched {
    std::set<TilePlace> added, refused;
    bool bad = false;        // some of the refused were other bytes than the model's
    absl::Status call, own;  // what ended the call; what this machine's disk said
  };
  Fetched Fetch(Peer& peer, const std::vector<TilePlace>& batch) {
    Fetched got;
    got.call = peer.node.FetchTiles(
        model_.hash(), batch, [&](TilePlace tile, std::string_view bytes) -> absl::Status {
          if (bytes.empty()) {
            got.refused.insert(tile);
            return absl::OkStatus();
          }
          const absl::Status added = sink_.put(tile, bytes);
          if (added.ok()) {
            got.added.insert(tile);
          } else if (absl::IsDataLoss(added) || absl::IsInvalidArgument(added)) {
            got.refused.insert(tile);
            got.bad = true;
            LogWarning("peer_sent_bad_tile",
                       "{peer} sent other bytes than the model's, which were not kept: {reason}",
                       {{"peer", peer.node.address()}, {"reason", added.message()}});
          } else {
            got.own = added;
          }
          return got.own;
        });
    const int64_t tiles = static_cast<int64_t>(got.added.size());
    if (got.own.ok() && (uncommitted_ += tiles) >= commit_) {
      uncommitted_ = 0;
      got.own = sink_.commit();
    }
    return got;
  }

  void Settle(Peer& peer, const std::vector<TilePlace>& batch, Fetched got) {
    for (auto tile = batch.rbegin(); tile != batch.rend(); ++tile) {
      if (!got.added.contains(*tile)) wanted_.push_front(*tile);
    }
    peer.refused.insert(got.refused.begin(), got.refused.end());
    progress_.tiles += static_cast<int64_t>(got.added.size());
    progress_.bytes = progress_.tiles * model_.tile_bytes();
    const double seconds = std::chrono::duration<double>(Clock::now() - begun_).count();
    progress_.bytes_per_second = seconds > 0 ? static_cast<double>(progress_.bytes) / seconds : 0;
    if (!got.own.ok()) {
      if (status_.ok()) status_ = got.own;
      for (const auto& other : peers_) other->node.Cancel();
      return;
    }
    if (!status_.ok()) return;
    if (!got.call.ok()) {
      peer.reason = std::string(got.call.message());
    } else if (got.bad) {
      peer.reason = absl::StrCat(peer.node.address(), ": sends other bytes than the model's");
    } else if (!got.refused.empty()) {
      peer.reason = absl::StrCat(peer.node.address(), ": has not all that is missing");
    }
    if (!got.added.empty()) {
      peer.failures = 0;
    } else if (!got.call.ok() || got.bad) {
      ++peer.failures;  // not having a tile is none
    }
    // It said so itself; asking again changes nothing.
    const bool for_good = absl::IsNotFound(got.call) || absl::IsUnimplemented(got.call) ||
                          absl::IsPermissionDenied(got.call) || absl::IsUnauthenticated(got.call) ||
                          absl::IsInvalidArgument(got.call);
    if (for_good || peer.failures >= options_.attempts) {
      if (!peer.given_up) {
        LogWarning("peer_given_up", "{peer} is not asked for tiles any more: {reason}",
                   {{"peer", peer.node.address()}, {"reason", peer.reason}});
      }
      peer.given_up = true;
    } else if (!got.call.ok()) {
      peer.not_before = Clock::now() + Backoff(options_.backoff, std::max(1, peer.failures));
    }
  }

  // Outside the lock: whoever is told may stop the fill.
  void Report() {
    const std::lock_guard one(progress_mutex_);
    FillProgress progress;
    {
      const std::lock_guard lock(mutex_);
      if (progress_.tiles == reported_) return;  // another thread has said so
      progress = progress_;
      reported_ = progress.tiles;
    }
    options_.progress(progress);
  }

  absl::Status NobodyHas() const {
    const std::string reasons = absl::StrJoin(
        peers_, "; ", [](std::string* out, const auto& peer) { absl::StrAppend(out, peer->reason); });
    return absl::UnavailableError(
        absl::StrCat(model_.files().dir, ": ", wanted_.size(), " of ", progress_.tiles_wanted,
                     " tiles could not be fetched; name another peer, or start one that has them (",
                     peers_.empty() ? "none was named" : reasons, ")"));
  }

  const PartialModel& model_;
  const TileSink& sink_;
  const FillOptions& options_;
  size_t batch_ = 1;
  int64_t commit_ = 1;
  std::atomic<int64_t> uncommitted_ = 0;  // tiles

  std::mutex progress_mutex_;
  std::mutex mutex_;
  std::condition_variable changed_;
  absl::Status status_;  // of the fill; not OK: it ends
  std::vector<std::unique_ptr<Peer>> peers_;
  std::deque<TilePlace> wanted_;  // missing, and not being fetched
  int under_way_ = 0;
  RateLimit limit_;
  const Clock::time_point begun_;
  FillProgress progress_;
  int64_t reported_ = 0;  // tiles
};

}  // namespace

absl::Status FetchTiles(const PartialModel& model, const std::vector<TilePlace>& tiles, const TileSink& sink,
                        const FillOptions& options) {
  return Fill(model, tiles, sink, options).Run();
}

}  // namespace omni
