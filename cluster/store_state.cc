#include "cluster/store_state.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "engine/base/simulated.h"

namespace omni {
namespace {

int64_t BytesOf(const Changes& changes) {
  int64_t bytes = 0;
  for (const Record& record : changes.put)
    bytes += static_cast<int64_t>(record.key.size() + record.value.size());
  for (const std::string& key : changes.deleted) bytes += static_cast<int64_t>(key.size());
  return bytes;
}

absl::Status LeaseOver(LeaseId lease) {
  return absl::NotFoundError(absl::StrCat("lease ", lease, " is over, or never was"));
}

}  // namespace

void StoreContents::Apply(const StoreEffect& effect) {
  number = effect.number;
  revision = effect.revision;
  last_lease = effect.last_lease;
  for (const Record& record : effect.put) records[record.key] = record;
  for (const std::string& key : effect.deleted) records.erase(key);
  if (effect.granted.has_value()) leases.insert(*effect.granted);
  if (effect.ended != 0) leases.erase(effect.ended);
}

StoreState::StoreState(StoreContents contents, StorePersistence& persistence, const Options& options,
                       Time now)
    : options_(options),
      persistence_(persistence),
      contents_(std::move(contents)),
      known_from_(contents_.revision + 1) {
  for (const auto& [id, ttl] : contents_.leases) SetDeadline(id, leases_[id], now + ttl);
  for (const auto& [key, record] : contents_.records) {
    if (record.lease != 0) leases_[record.lease].keys.insert(key);
  }
}

absl::StatusOr<Records> StoreState::Read(const std::string& prefix, Time now) {
  if (absl::Status s = Settle(now); !s.ok()) return s;
  Records read{.revision = contents_.revision};
  for (auto it = contents_.records.lower_bound(prefix);
       it != contents_.records.end() && it->first.starts_with(prefix); ++it) {
    read.records.push_back(it->second);
  }
  return read;
}

absl::StatusOr<Committed> StoreState::Commit(const Transaction& transaction, Time now) {
  if (absl::Status s = CheckTransaction(transaction); !s.ok()) return s;
  if (absl::Status s = Settle(now); !s.ok()) return s;
  for (const Condition& condition : transaction.conditions) {
    const auto it = contents_.records.find(condition.key);
    const Revision changed = it == contents_.records.end() ? 0 : it->second.changed;
    if (changed != condition.changed) return Committed{.applied = false, .revision = contents_.revision};
  }
  StoreEffect effect = NextEffect();
  effect.revision = contents_.revision + 1;
  for (const Change& change : transaction.changes) {
    if (change.lease != 0 && !leases_.contains(change.lease)) return LeaseOver(change.lease);
    const auto it = contents_.records.find(change.key);
    const bool there = it != contents_.records.end();
    if (change.value.has_value()) {
      effect.put.push_back({.key = change.key,
                            .value = *change.value,
                            .created = there ? it->second.created : effect.revision,
                            .changed = effect.revision,
                            .lease = change.lease});
    } else if (there) {
      effect.deleted.push_back(change.key);
    }
  }
  if (effect.put.empty() && effect.deleted.empty())
    return Committed{.applied = true, .revision = contents_.revision};
  std::sort(effect.put.begin(), effect.put.end(),
            [](const Record& a, const Record& b) { return a.key < b.key; });
  std::sort(effect.deleted.begin(), effect.deleted.end());
  if (absl::Status s = Make(std::move(effect), now); !s.ok()) return s;
  return Committed{.applied = true, .revision = contents_.revision};
}

absl::StatusOr<LeaseId> StoreState::GrantLease(std::chrono::milliseconds ttl, Time now) {
  if (absl::Status s = CheckLeaseTtl(ttl); !s.ok()) return s;
  if (absl::Status s = Settle(now); !s.ok()) return s;
  StoreEffect effect = NextEffect();
  const LeaseId id = ++effect.last_lease;
  effect.granted = {id, ttl};
  if (absl::Status s = Make(std::move(effect), now); !s.ok()) return s;
  return id;
}

absl::StatusOr<std::chrono::milliseconds> StoreState::KeepAlive(LeaseId lease, Time now) {
  if (absl::Status s = Settle(now); !s.ok()) return s;
  const auto it = leases_.find(lease);
  if (it == leases_.end()) return LeaseOver(lease);
  const std::chrono::milliseconds ttl = contents_.leases.at(lease);
  SetDeadline(lease, it->second, now + ttl);
  return ttl;
}

absl::StatusOr<bool> StoreState::RevokeLease(LeaseId lease, Time now) {
  if (absl::Status s = Settle(now); !s.ok()) return s;
  if (!leases_.contains(lease)) return false;
  if (absl::Status s = EndLease(lease, now); !s.ok()) return s;
  return true;
}

absl::Status StoreState::Settle(Time now) {
  if (absl::Status s = ResolveUnknown(now); !s.ok()) return s;
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    if (absl::Status s = EndLease(deadlines_.begin()->second, now); !s.ok()) return s;
  }
  return absl::OkStatus();
}

std::optional<StoreState::Time> StoreState::next_deadline() const {
  if (deadlines_.empty()) return std::nullopt;
  return deadlines_.begin()->first;
}

StoreState::WatchId StoreState::Watch(std::string prefix, Revision from) {
  watches_[++last_watch_] = {std::move(prefix), std::max<Revision>(from, 1)};
  return last_watch_;
}

void StoreState::Unwatch(WatchId watch) { watches_.erase(watch); }

absl::StatusOr<std::optional<Changes>> StoreState::Take(WatchId watch) {
  const auto found = watches_.find(watch);
  if (found == watches_.end()) return absl::NotFoundError(absl::StrCat("there is no watcher ", watch));
  Watched& watched = found->second;
  if (watched.next < known_from_) {
    const Revision asked = watched.next;
    watches_.erase(found);
    return absl::OutOfRangeError(absl::StrCat("changes from revision ", asked,
                                              " on are asked for, and those before ", known_from_,
                                              " are no longer known: read afresh"));
  }
  auto step = std::lower_bound(history_.begin(), history_.end(), watched.next,
                               [](const Changes& changes, Revision r) { return changes.revision < r; });
  for (; step != history_.end(); ++step) {
    watched.next = step->revision + 1;
    Changes changes{.revision = step->revision};
    for (const Record& record : step->put) {
      if (record.key.starts_with(watched.prefix)) changes.put.push_back(record);
    }
    for (const std::string& key : step->deleted) {
      if (key.starts_with(watched.prefix)) changes.deleted.push_back(key);
    }
    if (!changes.put.empty() || !changes.deleted.empty()) return changes;
  }
  watched.next = std::max(watched.next, contents_.revision + 1);
  return std::nullopt;
}

absl::Status StoreState::ResolveUnknown(Time now) {
  if (!unknown_.has_value()) return absl::OkStatus();
  const absl::StatusOr<bool> persisted = persistence_.Persisted(*unknown_);
  if (!persisted.ok()) {
    return absl::UnavailableError(
        absl::StrCat("what became of a change that could not be made lasting is not known: ",
                     persisted.status().message()));
  }
  const StoreEffect effect = *std::exchange(unknown_, std::nullopt);
  if (*persisted) {
    OMNI_REACHED(kStoreUnknownPersisted);
    Apply(effect, now);
  } else {
    OMNI_REACHED(kStoreUnknownLost);
  }
  return absl::OkStatus();
}

absl::Status StoreState::Make(StoreEffect effect, Time now) {
  if (absl::Status s = persistence_.Persist(effect); !s.ok()) {
    unknown_ = std::move(effect);
    return absl::UnavailableError(absl::StrCat("a change could not be made lasting: ", s.message()));
  }
  Apply(effect, now);
  return absl::OkStatus();
}

void StoreState::Apply(const StoreEffect& effect, Time now) {
  const auto detach = [&](const std::string& key) {
    const auto it = contents_.records.find(key);
    if (it == contents_.records.end() || it->second.lease == 0) return;
    leases_[it->second.lease].keys.erase(key);
  };
  for (const Record& record : effect.put) {
    detach(record.key);
    if (record.lease != 0) leases_[record.lease].keys.insert(record.key);
  }
  for (const std::string& key : effect.deleted) detach(key);
  contents_.Apply(effect);
  if (effect.granted.has_value()) {
    const auto [id, ttl] = *effect.granted;
    SetDeadline(id, leases_[id], now + ttl);
  }
  if (effect.ended != 0) {
    deadlines_.erase({leases_[effect.ended].deadline, effect.ended});
    leases_.erase(effect.ended);
  }
  Remember(effect);
}

absl::Status StoreState::EndLease(LeaseId lease, Time now) {
  StoreEffect effect = NextEffect();
  effect.ended = lease;
  const std::set<std::string>& keys = leases_[lease].keys;
  effect.deleted.assign(keys.begin(), keys.end());
  if (!keys.empty()) ++effect.revision;
  return Make(std::move(effect), now);
}

void StoreState::Remember(const StoreEffect& effect) {
  if (effect.put.empty() && effect.deleted.empty()) return;
  history_.push_back({.revision = effect.revision, .put = effect.put, .deleted = effect.deleted});
  history_bytes_ += BytesOf(history_.back());
  while (!history_.empty() &&
         (history_bytes_ > options_.history_bytes || history_.size() > options_.history_steps)) {
    known_from_ = history_.front().revision + 1;
    history_bytes_ -= BytesOf(history_.front());
    history_.pop_front();
  }
}

void StoreState::SetDeadline(LeaseId id, Lease& lease, Time deadline) {
  deadlines_.erase({lease.deadline, id});
  lease.deadline = deadline;
  deadlines_.insert({deadline, id});
}

StoreEffect StoreState::NextEffect() const {
  StoreEffect effect;
  effect.number = contents_.number + 1;
  effect.revision = contents_.revision;
  effect.last_lease = contents_.last_lease;
  return effect;
}

}  // namespace omni
