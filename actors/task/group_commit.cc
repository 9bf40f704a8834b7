#include "actors/task/group_commit.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "actors/task/task_log.h"
#include "engine/base/simulated.h"

namespace omni {
namespace {

constexpr size_t kMostBytes = 64 << 20;  // of a write, where the store has no limit

}  // namespace

TaskGroupCommit::TaskGroupCommit(RecordStore& store, Options options)
    : store_(store),
      options_(std::move(options)),
      most_of_call_(options_.ledger.limits.report_events + TaskLedger::kMostChanges),
      ledger_(store, options_.ledger) {}

absl::Status TaskGroupCommit::Load() {
  const size_t least = most_of_call_ + TaskLedger::kMostChanges + 1;
  if (store_.max_changes() < least)
    return absl::FailedPreconditionError(absl::StrCat("the store of tasks takes ", store_.max_changes(),
                                                      " changes at once; it has to take ", least));
  return ledger_.Load(options_.now());
}

std::optional<TaskTime> TaskGroupCommit::next_due() const {
  std::optional<TaskTime> due = failure_.ok() ? ledger_.next_due() : recovered_ + options_.recover_every;
  for (const std::shared_ptr<Waiter>& waiter : waiters_)
    due = std::min(due.value_or(waiter->until), waiter->until);
  return due;
}

absl::Status TaskGroupCommit::Serve(size_t room, bool lending, Round& round) {
  const TaskTime now = options_.now();
  for (auto at = waiters_.begin(); at != waiters_.end();) {
    const std::shared_ptr<Waiter>& waiter = *at;
    absl::StatusOr<std::optional<TaskAssignment>> given = std::nullopt;
    if (lending && failure_.ok() && ledger_.queued() > 0) {
      if (round.news.writes.size() > room) {
        more_ = true;
        break;
      }
      given = ledger_.Take(waiter->worker, waiter->node, waiter->offers, now, round.news);
      if (!given.ok()) return given.status();
    }
    if (!given->has_value() && lending && now < waiter->until) {
      ++at;
      continue;
    }
    round.served.push_back({waiter, std::move(given)});
    at = waiters_.erase(at);
  }
  return absl::OkStatus();
}

bool TaskGroupCommit::Recover() {
  const TaskTime now = options_.now();
  // Unless the clock was set back.
  if (now >= recovered_ && now < recovered_ + options_.recover_every) return false;
  recovered_ = now;
  absl::Status s = store_.Recover();
  if (s.ok()) s = ledger_.Load(now);
  if (!s.ok()) return false;
  LogTaskStoreRecovered();
  failure_ = absl::OkStatus();
  return true;
}

TaskGroupCommit::Round TaskGroupCommit::Run(std::deque<Call>& calls, bool lending) {
  Round round;
  const auto take = [&] {
    round.calls.push_back(std::move(calls.front()));
    calls.pop_front();
  };
  more_ = false;
  if (!failure_.ok()) {
    if (!Recover()) {
      while (!calls.empty()) take();
      (void)Serve(0, lending, round);  // whose time is over
      round.written = failure_;
      return round;
    }
    round.news = std::exchange(lost_, {});
    // Of what else was about to be told nothing is known any more.
    round.news.queued = true;
  }
  // What is due and the calls share a write, so that neither waits for ever for the other.
  const size_t room = std::min(store_.max_changes() / 2, store_.max_changes() - most_of_call_);
  const absl::StatusOr<bool> more =
      ledger_.Settle(options_.now(), std::min(room / 2, room - TaskLedger::kMostChanges), round.news);
  absl::Status status = more.status();
  if (more.ok()) more_ = *more;
  // A call has at most half of what a write may have.
  const size_t most_bytes = store_.max_bytes() == 0 ? kMostBytes : store_.max_bytes() * 2 / 5;
  size_t bytes = 0;
  for (const auto& [key, value] : round.news.writes) bytes += key.size() + (value ? value->size() : 0);
  while (status.ok() && !calls.empty() && round.news.writes.size() <= room) {
    if (bytes >= most_bytes && !round.news.writes.empty()) break;
    bytes += calls.front().bytes;
    take();
    round.calls.back().decide(ledger_, options_.now(), round.news);
    if (ledger_.failed()) status = absl::UnavailableError("the records of tasks cannot be read");
  }
  if (status.ok()) status = Serve(room, lending, round);
  const RecordWrites writes = std::exchange(round.news.writes, {});
  if (status.ok() && !writes.empty()) {
    status = store_.Write(writes);
    ++syncs_;
    writes_ += static_cast<int64_t>(writes.size());
  }
  ledger_.Decided(status.ok());
  if (status.ok()) return round;
  LogTaskStoreFailed(status);
  failure_ = absl::IsResourceExhausted(status) ? status : absl::UnavailableError(status.message());
  lost_ = std::exchange(round.news, {});
  while (!calls.empty()) take();
  if (OMNI_TASK_PLANTED(kToldUnwritten)) return round;
  round.written = failure_;
  for (Served& one : round.served) one.task = failure_;
  return round;
}

}  // namespace omni
