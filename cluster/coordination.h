// The one place where it is decided who owns what: small records that change together or not at all, leases,
// and word of every change. Embedded (a database of this process) where one coordinator is enough, etcd where
// coordinators must survive each other; nothing else in the project agrees with anybody about anything.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

// Counts the transactions that changed something, over all keys; never comes back.
using Revision = int64_t;
// 0: none.
using LeaseId = int64_t;

struct Record {
  std::string key = {}, value = {};
  Revision created = 0, changed = 0;
  LeaseId lease = 0;  // with whose end it goes
};

// What must hold for a transaction to change anything.
struct Condition {
  std::string key;
  Revision changed = 0;  // the key's; 0: there is no such key
};

struct Change {
  std::string key;
  std::optional<std::string> value = {};  // none: delete; no error if it is not there
  LeaseId lease = 0;
};

// A key is changed once, and no key is empty.
struct Transaction {
  std::vector<Condition> conditions = {};  // at most kMaxTransactionItems
  std::vector<Change> changes = {};        // as many
};

inline constexpr size_t kMaxTransactionItems = 128;
inline constexpr size_t kMaxTransactionBytes = 1 << 20;  // its keys and values together
inline constexpr std::chrono::milliseconds kMaxLeaseTtl = std::chrono::hours(24);

// What every store refuses with InvalidArgument.
absl::Status CheckTransaction(const Transaction& transaction);
absl::Status CheckLeaseTtl(std::chrono::milliseconds ttl);  // 1 ms … kMaxLeaseTtl

struct Committed {
  bool applied = false;   // false: a condition did not hold, and nothing changed
  Revision revision = 0;  // of the changes; if nothing changed, the store's
};

struct Records {
  Revision revision = 0;             // of which this is the state
  std::vector<Record> records = {};  // ascending by key
};

// One transaction's changes under a watched prefix, or those of a lease's end.
struct Changes {
  Revision revision = 0;
  std::vector<Record> put = {};           // ascending by key
  std::vector<std::string> deleted = {};  // ascending
};

// Thread-safe. No call waits: what comes of it is told by its callback, once, on the store's one thread or,
// if the call is refused, before it returns; a callback may call the store, and does not wait. What is begun
// after a call's callback sees what that call did; calls under way at the same time come in any order.
//
// Errors of every call: Unavailable, the store could not be reached or did not answer in time, and whether a
// commit, a grant or a revocation was made is then unknown; InvalidArgument; ResourceExhausted, too many
// calls are under way, or the store is full; Cancelled, the store went meanwhile.
class CoordinationStore {
 public:
  template <typename T>
  using Callback = std::function<void(absl::StatusOr<T>)>;

  // Calls under way end with Cancelled, and nothing is told any more when this returns. Not in a callback.
  virtual ~CoordinationStore() = default;

  // All keys that begin with `prefix`, as of one revision, which is not older than any that was told before.
  virtual void Read(std::string prefix, Callback<Records> done) = 0;
  // Lasting when it is told. NotFound: the conditions hold, and a lease that a change names is over.
  virtual void Commit(Transaction transaction, Callback<Committed> done) = 0;

  // A lease ends `ttl` after it was granted or last kept alive, by the store's clock and never sooner, and
  // its records are deleted then. Later is possible: etcd counts whole seconds, has a least number of them
  // (one and a half election timeouts, rounded up), and begins anew when its leader changes; so does the
  // embedded store when it is opened. Holders judge by their own clock from before they asked, and so stop
  // first. An id is never used again.
  virtual void GrantLease(std::chrono::milliseconds ttl, Callback<LeaseId> done) = 0;
  // Gives the lease's ttl, which begins again. NotFound: it is over.
  virtual void KeepAlive(LeaseId lease, Callback<std::chrono::milliseconds> done) = 0;
  virtual void RevokeLease(LeaseId lease, Callback<bool> done) = 0;  // its records go; true: it was there

  class Watcher {
   public:
    // Nothing is told any more when this returns: it waits for a callback of its own that is running. May go
    // in a callback, its own too, which is then not waited for.
    virtual ~Watcher() = default;
  };
  // Every change under `prefix` from revision `from` on, in order, none left out and none twice, over
  // reconnections too. To go on from a Read: from its revision + 1. An error is the last word; OutOfRange:
  // not all revisions from `from` on are known any more, and the watcher reads afresh. Must go before the
  // store.
  virtual std::unique_ptr<Watcher> Watch(std::string prefix, Revision from, Callback<Changes> on_changes) = 0;
};

}  // namespace omni
