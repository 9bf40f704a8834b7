// The coordination store of one coordinator: a database of its own process. Who needs several coordinators
// that survive each other takes etcd (cluster/etcd_store.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "cluster/coordination.h"
#include "store/state/database.h"

namespace omni {

struct EmbeddedStoreOptions {
  // What "lasting" means: kUnsynced, over the end of the process; kSynced, over a power cut.
  Durability durability = Durability::kUnsynced;
  int64_t history_bytes = 16 << 20;  // of changes kept for watchers that ask for past revisions
  size_t max_calls = 4096;           // under way; more are refused
  // For tests: the time, instead of the steady clock. The ends of leases are then seen by calls and by Tick
  // alone. One thread at a time calls it.
  std::function<std::chrono::steady_clock::time_point()> now = {};
};

// One thread does everything and tells everything, in the order of the calls. After it was opened again
// leases have their whole ttl, changes before that are no longer known to watchers, and revisions go on
// behind the highest that was ever told (kUnsynced: far behind).
class EmbeddedStore : public CoordinationStore {
 public:
  // `dir` is made if it is not there; its parent must be. One process has it open.
  static absl::StatusOr<std::unique_ptr<EmbeddedStore>> Open(const std::string& dir,
                                                             EmbeddedStoreOptions options = {});
  ~EmbeddedStore() override;

  void Read(std::string prefix, Callback<Records> done) override;
  void Commit(Transaction transaction, Callback<Committed> done) override;
  void GrantLease(std::chrono::milliseconds ttl, Callback<LeaseId> done) override;
  void KeepAlive(LeaseId lease, Callback<std::chrono::milliseconds> done) override;
  void RevokeLease(LeaseId lease, Callback<bool> done) override;
  std::unique_ptr<Watcher> Watch(std::string prefix, Revision from, Callback<Changes> on_changes) override;

  void Tick();  // looks for leases that are over

 private:
  class Thread;
  explicit EmbeddedStore(std::unique_ptr<Thread> thread);
  std::unique_ptr<Thread> thread_;
};

}  // namespace omni
