// The coordination store of coordinators that survive each other: etcd, over its API v3.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/coordination.h"

namespace omni {

// PEM files.
struct EtcdTls {
  std::string authority;         // whose certificates etcd's members have
  std::string certificate, key;  // of this client; both empty: it shows none
};

struct EtcdOptions {
  std::vector<std::string> endpoints;  // HOST:PORT of the members
  std::optional<EtcdTls> tls = {};
  std::string prefix = {};  // before every key, and seen by nobody: several clusters may share an etcd
  std::chrono::milliseconds call_timeout{3000};     // after which a call is Unavailable
  std::chrono::milliseconds attempt_timeout{1000};  // after which a silent member counts as stopped
  std::chrono::milliseconds probe_interval{500};    // between questions whether a watched member is there
  size_t max_calls = 4096;                          // under way; more are refused
  // Of one message from etcd; what is larger is asked for in parts. At least 4 MiB, which no transaction and
  // no part of a watcher's answer reaches.
  int max_answer_bytes = 64 << 20;
};

// All members are kept connected, one of them is asked; one that is gone, without a leader, or silent is left
// for another. Reads and keep-alives are then asked again, at once while another member is connected, else
// with growing, scattered delays; commits, grants and revocations are not, unless etcd refused them before it
// did anything.
//
// The members' own limits hold too: requests of 1.5 MiB (--max-request-bytes), 128 operations
// (--max-txn-ops), a quota of 2 GB (--quota-backend-bytes), over which commits are ResourceExhausted.
// etcd keeps every revision until it is told to compact: start it with --auto-compaction-mode=periodic
// --auto-compaction-retention=1h or the like.
class EtcdStore : public CoordinationStore {
 public:
  // Returns without waiting for etcd: the first calls do. InvalidArgument: the options make no sense; else
  // errors of the TLS files.
  static absl::StatusOr<std::unique_ptr<EtcdStore>> Open(EtcdOptions options);
  ~EtcdStore() override;

  void Read(std::string prefix, Callback<Records> done) override;
  void Commit(Transaction transaction, Callback<Committed> done) override;
  void GrantLease(std::chrono::milliseconds ttl, Callback<LeaseId> done) override;
  void KeepAlive(LeaseId lease, Callback<std::chrono::milliseconds> done) override;
  void RevokeLease(LeaseId lease, Callback<bool> done) override;
  std::unique_ptr<Watcher> Watch(std::string prefix, Revision from, Callback<Changes> on_changes) override;

 private:
  struct Impl;
  explicit EtcdStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
