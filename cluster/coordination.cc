#include "cluster/coordination.h"

#include <set>

#include <absl/strings/str_cat.h>

#include "engine/base/quoted.h"

namespace omni {

absl::Status CheckTransaction(const Transaction& transaction) {
  if (transaction.conditions.size() > kMaxTransactionItems ||
      transaction.changes.size() > kMaxTransactionItems) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a transaction of ", transaction.conditions.size(), " conditions and ", transaction.changes.size(),
        " changes; at most ", kMaxTransactionItems, " of each are possible: divide it"));
  }
  size_t bytes = 0;
  for (const Condition& condition : transaction.conditions) {
    if (condition.key.empty()) return absl::InvalidArgumentError("a condition without a key");
    if (condition.changed < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("a condition on ", Quoted(condition.key), " asks for revision ", condition.changed,
                       "; give the record's `changed`, or 0 if it must not be there"));
    }
    bytes += condition.key.size();
  }
  std::set<std::string_view> keys;
  for (const Change& change : transaction.changes) {
    if (change.key.empty()) return absl::InvalidArgumentError("a change without a key");
    if (!keys.insert(change.key).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("a transaction changes ", Quoted(change.key), " twice; once is possible"));
    }
    if (!change.value.has_value() && change.lease != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("the deletion of ", Quoted(change.key), " names a lease; only a record has one"));
    }
    bytes += change.key.size() + (change.value.has_value() ? change.value->size() : 0);
  }
  if (bytes > kMaxTransactionBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a transaction of ", bytes, " bytes; at most ",
                                                   kMaxTransactionBytes, " are possible: divide it"));
  }
  return absl::OkStatus();
}

absl::Status CheckLeaseTtl(std::chrono::milliseconds ttl) {
  if (ttl.count() >= 1 && ttl <= kMaxLeaseTtl) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a lease of ", ttl.count(), " ms; 1 … ", kMaxLeaseTtl.count(), " are possible"));
}

}  // namespace omni
