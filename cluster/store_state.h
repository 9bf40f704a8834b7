// The state behind the embedded store: records, leases, and what happened that watchers may still ask for. No
// threads, disk or clock of its own: time is passed in, and what must last goes through a hook before it
// counts. The same calls give the same results, so that a simulator can use it.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/coordination.h"

namespace omni {

// One step from one state to the next; it lasts as a whole or not at all.
struct StoreEffect {
  int64_t number = 0;                // one more than that of the step before
  Revision revision = 0;             // of the state after it
  LeaseId last_lease = 0;            // the highest id given so far
  std::vector<Record> put;           // ascending by key
  std::vector<std::string> deleted;  // ascending; they were there
  std::optional<std::pair<LeaseId, std::chrono::milliseconds>> granted;  // its ttl
  LeaseId ended = 0;                                                     // its records are in `deleted`
};

// All that lasts.
struct StoreContents {
  int64_t number = 0;  // of the last effect
  Revision revision = 0;
  LeaseId last_lease = 0;
  std::map<std::string, Record, std::less<>> records;
  std::map<LeaseId, std::chrono::milliseconds> leases;

  void Apply(const StoreEffect& effect);
};

class StorePersistence {
 public:
  virtual ~StorePersistence() = default;
  // Makes an effect lasting. After an error it may come out either way, and the next call is Persisted.
  virtual absl::Status Persist(const StoreEffect& effect) = 0;
  // Which way that was; from then on it stays so. An error: it cannot be said yet.
  virtual absl::StatusOr<bool> Persisted(const StoreEffect& effect) = 0;
};

// Times passed in never go back. Every call first ends the leases whose time is over. Errors of the hook are
// Unavailable, and so is every call until the hook can say what became of the effect it failed to persist.
class StoreState {
 public:
  using Time = std::chrono::steady_clock::time_point;
  struct Options {
    int64_t history_bytes = 16 << 20;  // of keys and values kept for watchers
    size_t history_steps = 1 << 16;
  };

  // Leases begin anew at `now`. `persistence` outlives the state.
  StoreState(StoreContents contents, StorePersistence& persistence, const Options& options, Time now);

  absl::StatusOr<Records> Read(const std::string& prefix, Time now);
  absl::StatusOr<Committed> Commit(const Transaction& transaction, Time now);
  absl::StatusOr<LeaseId> GrantLease(std::chrono::milliseconds ttl, Time now);
  absl::StatusOr<std::chrono::milliseconds> KeepAlive(LeaseId lease, Time now);
  absl::StatusOr<bool> RevokeLease(LeaseId lease, Time now);
  // Ends the leases whose time is over, and nothing else.
  absl::Status Settle(Time now);
  std::optional<Time> next_deadline() const;  // of a lease

  // Watching neither persists nor fails: a watcher takes what there is for it when it likes to.
  using WatchId = int64_t;
  WatchId Watch(std::string prefix, Revision from);
  void Unwatch(WatchId watch);
  // The next changes under the watcher's prefix; none: there are no more so far. OutOfRange: they are no
  // longer known, and the watcher is gone.
  absl::StatusOr<std::optional<Changes>> Take(WatchId watch);

  const StoreContents& contents() const { return contents_; }

 private:
  struct Lease {
    Time deadline;
    std::set<std::string> keys;
  };
  struct Watched {
    std::string prefix;
    Revision next;
  };

  absl::Status ResolveUnknown(Time now);
  absl::Status Make(StoreEffect effect, Time now);
  void Apply(const StoreEffect& effect, Time now);
  absl::Status EndLease(LeaseId lease, Time now);
  void Remember(const StoreEffect& effect);
  void SetDeadline(LeaseId id, Lease& lease, Time deadline);
  StoreEffect NextEffect() const;

  const Options options_;
  StorePersistence& persistence_;
  StoreContents contents_;
  std::optional<StoreEffect> unknown_;  // the hook failed to persist it, and has not said more
  std::map<LeaseId, Lease> leases_;
  std::set<std::pair<Time, LeaseId>> deadlines_;
  // Steps of revisions known_from_ … contents_.revision that changed records.
  std::deque<Changes> history_;
  int64_t history_bytes_ = 0;
  Revision known_from_;
  std::map<WatchId, Watched> watches_;
  WatchId last_watch_ = 0;
};

}  // namespace omni
