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
  std::string key, value;
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
  std::optional<std::string> value;  // none: delete; no error if it is not there
  LeaseId lease = 0;
};

// At most 128 conditions and changes; a key is changed once.
struct Transaction {
  std::vector<Condition> conditions;
  std::vector<Change> changes;
};

struct Committed {
  bool applied = false;   // false: a condition did not hold, and nothing changed
  Revision revision = 0;  // of the changes; else the store's
};

struct Records {
  Revision revision = 0;        // of which this is the state
  std::vector<Record> records;  // ascending by key
};

// One transaction's changes under a watched prefix.
struct Changes {
  Revision revision = 0;
  std::vector<Record> put;
  std::vector<std::string> deleted;
};

// Thread-safe. No call waits: what comes of it is told by its callback, once, on a thread of the store or
// before the call returns; a callback may call the store, and does not wait. Unavailable: the store could not
// be reached or did not answer in time; whether a commit was applied is then unknown.
class CoordinationStore {
 public:
  template <typename T>
  using Callback = std::function<void(absl::StatusOr<T>)>;

  virtual ~CoordinationStore() = default;  // calls under way end with Cancelled; none comes after

  // All keys that begin with `prefix`, as of one revision.
  virtual void Read(std::string prefix, Callback<Records> done) = 0;
  // Lasting when it is told. NotFound: a lease that a change names is over.
  virtual void Commit(Transaction transaction, Callback<Committed> done) = 0;

  // A lease ends `ttl` after it was granted or last kept alive, by the store's clock, and its records are
  // deleted then. Holders judge by their own clock from before they asked, and so stop first.
  virtual void GrantLease(std::chrono::milliseconds ttl, Callback<LeaseId> done) = 0;
  virtual void KeepAlive(LeaseId lease,
                         Callback<std::chrono::milliseconds> done) = 0;  // NotFound: it is over
  virtual void RevokeLease(LeaseId lease, Callback<bool> done) = 0;      // its records go; true: it was there

  class Watcher {
   public:
    virtual ~Watcher() = default;  // nothing is told any more when this returns
  };
  // Every change under `prefix` from revision `from` on, in order, none left out and none twice, over
  // reconnections too. An error is the last word; OutOfRange: revisions from `from` on are no longer known,
  // and the watcher reads afresh. Must go before the store.
  virtual std::unique_ptr<Watcher> Watch(std::string prefix, Revision from, Callback<Changes> on_changes) = 0;
};

}  // namespace omni
