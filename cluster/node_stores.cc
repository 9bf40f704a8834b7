#include "cluster/node_stores.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/embedded_store.h"
#include "cluster/etcd_store.h"

namespace omni {
namespace {

absl::StatusOr<std::unique_ptr<CoordinationStore>> OpenCoordination(const NodeStoreOptions& options) {
  if (options.etcd.empty()) {
    return EmbeddedStore::Open(absl::StrCat(options.dir, "/coordination"),
                               {.durability = Durability::kSynced});
  }
  EtcdOptions etcd;
  etcd.endpoints = options.etcd;
  etcd.prefix = options.etcd_prefix;
  etcd.attempt_timeout = std::min<std::chrono::milliseconds>(etcd.attempt_timeout, options.leader_lease / 3);
  return EtcdStore::Open(std::move(etcd));
}

}  // namespace

absl::StatusOr<NodeStores> OpenNodeStores(const NodeStoreOptions& options, std::function<uint64_t()> term) {
  NodeStores stores;
  absl::StatusOr<std::unique_ptr<CoordinationStore>> coordination = OpenCoordination(options);
  if (!coordination.ok()) return coordination.status();
  stores.coordination = *std::move(coordination);
  if (options.durability == SessionDurability::kCluster) {
    if (options.etcd.empty()) {
      return absl::InvalidArgumentError(
          "sessions can be kept in the cluster only where etcd is its coordination store; name its members, "
          "or keep them on this coordinator's disk");
    }
    stores.log = MakeStoreSessionLog(*stores.coordination, term);
    stores.saved = MakeStoreSavedSessions(*stores.coordination, std::move(term));
    return stores;
  }
  DatabaseOptions database;
  database.durability =
      options.durability == SessionDurability::kSync ? Durability::kSynced : Durability::kUnsynced;
  absl::StatusOr<std::unique_ptr<Database>> opened =
      Database::Open(absl::StrCat(options.dir, "/sessions"), database);
  if (!opened.ok()) return opened.status();
  stores.database = *std::move(opened);
  stores.log = MakeDatabaseSessionLog(*stores.database);
  stores.saved = MakeDatabaseSavedSessions(*stores.database);
  return stores;
}

}  // namespace omni
