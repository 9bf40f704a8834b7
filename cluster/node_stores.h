// Where a coordinating node keeps the placement, the answers that can be taken up, and saved sessions.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/cluster_node.h"
#include "cluster/coordination.h"
#include "cluster/saved_sessions.h"
#include "cluster/session_log.h"
#include "store/state/database.h"

namespace omni {

struct NodeStoreOptions {
  std::string dir;                // the node's own, held by it
  std::vector<std::string> etcd;  // members; empty: an embedded store
  std::string etcd_prefix;
  std::chrono::milliseconds leader_lease;
  SessionDurability durability;
};

// Each refers to those before it.
struct NodeStores {
  std::unique_ptr<CoordinationStore> coordination;
  std::unique_ptr<Database> database;  // null where sessions are in etcd
  std::unique_ptr<SessionLog> log;
  std::unique_ptr<SavedSessions> saved;
};

// `term` is asked for at each write, on any thread, until the stores are gone. Errors: the stores'; the
// durability of a cluster without etcd.
absl::StatusOr<NodeStores> OpenNodeStores(const NodeStoreOptions& options, std::function<uint64_t()> term);

}  // namespace omni
