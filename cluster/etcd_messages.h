// What of the coordination store becomes which of etcd's messages. Sees protobuf; for cluster/etcd_*.cc
// alone.
#pragma once

#include <optional>
#include <string>

#include <third_party/etcd.pb.h>

#include "cluster/coordination.h"

namespace omni {

// The keys that begin with `prefix`, as etcd names a range.
struct EtcdRange {
  std::string key, end;
};
EtcdRange PrefixRange(const std::string& prefix);

// `prefix` is put before every key.
etcdserverpb::TxnRequest ToTxn(const std::string& prefix, const Transaction& transaction);
// Without the prefix; none: the key has not got it.
std::optional<Record> ToRecord(const std::string& prefix, const mvccpb::KeyValue& kv);

}  // namespace omni
