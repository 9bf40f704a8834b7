#include "cluster/leadership.h"

#include <algorithm>
#include <utility>

#include "cluster/cluster_log.h"
#include "engine/base/simulated.h"

namespace omni {

template <typename F>
auto Leadership::Guard(F f) {
  // The store may answer when the state has gone.
  return [owner = &owner_, alive = alive_, f = std::move(f)](auto result) {
    owner->Post([alive, f, result = std::move(result)]() mutable {
      if (*alive) f(std::move(result));
    });
  };
}

void Leadership::Start(Clock::time_point now) {
  now_ = now;
  Ask();
}

void Leadership::AskSoon(std::chrono::milliseconds wait) {
  phase_ = Phase::kIdle;
  ask_at_ = now_ + wait;
}

void Leadership::Ask() {
  if (phase_ == Phase::kOver) return;
  phase_ = Phase::kAsking;
  ask_at_ = Clock::time_point::max();
  store_.Read(kLeaderKey, Guard([this](absl::StatusOr<Records> records) { OnLeader(std::move(records)); }));
}

void Leadership::OnLeader(absl::StatusOr<Records> records) {
  if (phase_ != Phase::kAsking) return;
  if (!records.ok()) {
    LogStoreUnavailable(records.status());
    AskSoon(options_.margin);
    return;
  }
  for (const Record& record : records->records) {
    if (record.key != kLeaderKey) continue;
    const absl::StatusOr<LeaderRecord> leader = ParseLeaderRecord(record.value);
    if (leader.ok() && !options_.exclusive && IsOwn(*leader)) OMNI_REACHED(kOwnLeaseTakenOver);
    if (options_.exclusive || !leader.ok() || IsOwn(*leader)) {
      Stand(record.changed);
    } else {
      Follow(*leader, records->revision + 1);
    }
    return;
  }
  Stand(0);
}

bool Leadership::IsOwn(const LeaderRecord& leader) const {
  return !leader.token.empty() && leader.token == options_.self.token && leader.node == options_.self.node;
}

void Leadership::Stand(Revision before) {
  asked_ = now_;
  store_.GrantLease(
      options_.ttl, Guard([this, before](absl::StatusOr<LeaseId> lease) {
        if (phase_ != Phase::kAsking) return;
        if (!lease.ok()) {
          LogStoreUnavailable(lease.status());
          AskSoon(options_.margin);
          return;
        }
        lease_ = *lease;
        Transaction transaction;
        transaction.conditions.push_back({kLeaderKey, before});
        transaction.changes.push_back({kLeaderKey, ToJson(options_.self), lease_});
        store_.Commit(std::move(transaction),
                      Guard([this](absl::StatusOr<Committed> committed) { OnStood(std::move(committed)); }));
      }));
}

void Leadership::OnStood(absl::StatusOr<Committed> committed) {
  if (phase_ != Phase::kAsking) return;
  end_ = asked_ + options_.ttl - options_.margin;
  if (OMNI_PLANTED(kLeaseMarginIgnored)) end_ += options_.margin;
  if (!committed.ok()) OMNI_REACHED(kElectionUnknown);
  if (committed.ok() && !committed->applied) OMNI_REACHED(kElectionLost);
  if (!committed.ok() || !committed->applied || now_ >= end_) {
    // If it was applied after all, the record goes with the lease.
    store_.RevokeLease(lease_, [](absl::StatusOr<bool>) {});
    AskSoon(committed.ok() ? std::chrono::milliseconds(1) : options_.margin);
    return;
  }
  phase_ = Phase::kLeading;
  term_ = static_cast<uint64_t>(committed->revision);
  kept_ = now_;
  keeping_ = false;
  other_.reset();
  LogElected(options_.self.node.value, term_);
  owner_.OnElected(term_);
}

void Leadership::Follow(const LeaderRecord& leader, Revision from) {
  phase_ = Phase::kFollowing;
  if (other_ != leader.node) {
    other_ = leader.node;
    LogFollows(options_.self.node.value, leader.node.value);
    owner_.OnOther(leader);
  }
  watcher_ = store_.Watch(kLeaderKey, from, Guard([this](absl::StatusOr<Changes> changes) {
                            if (phase_ != Phase::kFollowing) return;
                            const bool concerns =
                                !changes.ok() ||
                                std::find(changes->deleted.begin(), changes->deleted.end(), kLeaderKey) !=
                                    changes->deleted.end() ||
                                std::any_of(changes->put.begin(), changes->put.end(),
                                            [](const Record& r) { return r.key == kLeaderKey; });
                            if (!concerns) return;
                            watcher_ = nullptr;
                            if (changes.ok()) {
                              Ask();
                            } else {
                              OMNI_REACHED(kLeaderWatchBroke);
                              AskSoon(options_.margin);
                            }
                          }));
}

void Leadership::OnTick(Clock::time_point now) {
  now_ = std::max(now_, now);
  if (now_ >= ask_at_) Ask();
  if (phase_ != Phase::kLeading) return;
  if (now_ >= end_) {
    OMNI_REACHED(kLeaseRanOut);
    phase_ = Phase::kIdle;
    const absl::Status reason = absl::DeadlineExceededError("its lease could not be kept alive in time");
    owner_.OnLost(reason);
    AskSoon(options_.ttl);
    return;
  }
  if (keeping_ || now_ - kept_ < options_.ttl / 4) return;
  keeping_ = true;
  kept_ = now_;
  store_.KeepAlive(lease_,
                   Guard([this, sent = now_, term = term_](absl::StatusOr<std::chrono::milliseconds> kept) {
                     if (phase_ != Phase::kLeading || term != term_) return;
                     keeping_ = false;
                     if (kept.ok()) {
                       end_ = std::max(end_, sent + std::min(*kept, options_.ttl) - options_.margin);
                       if (OMNI_PLANTED(kLeaseMarginIgnored)) end_ = sent + *kept;
                     } else if (absl::IsNotFound(kept.status())) {
                       end_ = now_;
                       OnTick(now_);
                     }
                   }));
}

void Leadership::Resign(std::function<void()> done) {
  // While it stands for election its record may be on its way: that goes with the lease, or is refused
  // without it.
  const bool has_lease = phase_ == Phase::kLeading || (phase_ == Phase::kAsking && lease_ != 0);
  phase_ = Phase::kOver;
  watcher_ = nullptr;
  if (!has_lease) return done();
  store_.RevokeLease(lease_, [done = std::move(done)](const absl::StatusOr<bool>&) { done(); });
}

}  // namespace omni
