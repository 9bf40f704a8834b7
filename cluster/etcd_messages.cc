#include "cluster/etcd_messages.h"

namespace omni {

EtcdRange PrefixRange(const std::string& prefix) {
  const std::string everything(1, '\0');
  if (prefix.empty()) return {everything, everything};
  // The end is the next string of no greater length: the last byte that can be counted up is, and what stands
  // behind it goes.
  std::string end = prefix;
  while (!end.empty() && static_cast<uint8_t>(end.back()) == 0xff) end.pop_back();
  if (end.empty()) return {prefix, everything};
  end.back() = static_cast<char>(static_cast<uint8_t>(end.back()) + 1);
  return {prefix, end};
}

etcdserverpb::TxnRequest ToTxn(const std::string& prefix, const Transaction& transaction) {
  etcdserverpb::TxnRequest txn;
  for (const Condition& condition : transaction.conditions) {
    etcdserverpb::Compare& compare = *txn.add_compare();
    compare.set_result(etcdserverpb::Compare::EQUAL);
    compare.set_target(etcdserverpb::Compare::MOD);
    compare.set_key(prefix + condition.key);
    compare.set_mod_revision(condition.changed);
  }
  for (const Change& change : transaction.changes) {
    if (!change.value.has_value()) {
      txn.add_success()->mutable_request_delete_range()->set_key(prefix + change.key);
      continue;
    }
    etcdserverpb::PutRequest& put = *txn.add_success()->mutable_request_put();
    put.set_key(prefix + change.key);
    put.set_value(*change.value);
    put.set_lease(change.lease);
  }
  return txn;
}

std::optional<Record> ToRecord(const std::string& prefix, const mvccpb::KeyValue& kv) {
  if (!kv.key().starts_with(prefix)) return std::nullopt;
  return Record{.key = kv.key().substr(prefix.size()),
                .value = kv.value(),
                .created = kv.create_revision(),
                .changed = kv.mod_revision(),
                .lease = kv.lease()};
}

}  // namespace omni
