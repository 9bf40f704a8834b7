#include "tests/testing/task_simulation/task_server.h"

#include "tests/testing/task_simulation/check_records.h"

namespace omni::simulation {
namespace {

constexpr size_t kMaxChanges[] = {128, 128, 200, 20'000};
constexpr TaskTime kBegin(std::chrono::hours(24 * 20'000));

}  // namespace

TaskServer::TaskServer(TaskWorld& world)
    : world_(world),
      start_(world.world.now()),
      slowest_(world.Chance(0.5)   ? 8
               : world.Chance(0.6) ? 400
                                   : 2000),
      oracle_(world, kLease, [this] { return Clock(); }),
      store_(world, kMaxChanges[world.Below(std::size(kMaxChanges))],
             [this](const std::vector<RecordChange>& changes) { oracle_.OnApplied(changes); }),
      reader_(store_) {
  store_.on_recover = [this] { oracle_.OnLoaded(); };
}

TaskTime TaskServer::Clock() const {
  return kBegin + std::chrono::floor<TaskDuration>(world_.world.now() - start_) + ahead_;
}

void TaskServer::SetClock(TaskDuration ahead) {
  ahead_ += ahead;
  if (up()) WakeIn(milliseconds(0));
}

void TaskServer::Start() {
  if (!store_.Recover().ok()) return world_.After(milliseconds(500), [this] { Start(); });
  TaskGroupCommit::Options options;
  options.ledger.lease = kLease;
  options.ledger.retain = kRetain;
  options.ledger.random = [this] { return world_.world.chance().Next(); };
  // Time goes on while it decides.
  options.now = [this] {
    ahead_ += TaskDuration(world_.Chance(0.01) ? world_.Below(3000) : world_.Below(3));
    return Clock();
  };
  auto commit = std::make_unique<TaskGroupCommit>(store_, std::move(options));
  if (!commit->Load().ok()) return world_.After(milliseconds(500), [this] { Start(); });
  world_.world.Trace("server: started");
  oracle_.OnLoaded();
  commit_ = std::move(commit);
  muted_ = false;
  Check();
  WakeIn(milliseconds(0));
  for (const Listener& listener : listeners)
    if (listener.on_started) listener.on_started();
}

void TaskServer::Kill() {
  if (!up()) return;
  world_.world.Trace("server: killed");
  commit_.reset();
  calls_.clear();
  ++wake_;
  wake_at_ = {};
  store_.kill = SimRecords::Kill::kNo;
  store_.killed = false;
  world_.After(world_.Between(100, 5000), [this] {
    // Meanwhile somebody sets the clock.
    if (world_.Chance(world_.trouble.quiet ? 0 : 0.2)) {
      world_.Count(TaskFault::clock_set_back);
      ahead_ -= world_.Between(1'000, 300'000);
    }
    Start();
  });
}

void TaskServer::Push(TaskGroupCommit::Call call) {
  if (!up()) return;
  calls_.push_back(std::move(call));
  WakeIn(world_.Between(0, slowest_));
}

void TaskServer::Await(std::string worker, std::string node, std::vector<TaskOffer> offers, TaskDuration most,
                       std::function<void(absl::StatusOr<std::optional<TaskAssignment>>)> done) {
  if (world_.Chance(world_.trouble.lost)) return world_.Count(TaskFault::call_lost);
  auto waiter = std::make_shared<TaskGroupCommit::Waiter>();
  waiter->worker = std::move(worker);
  waiter->node = std::move(node);
  waiter->offers = std::move(offers);
  waiter->done = [this, done](absl::StatusOr<std::optional<TaskAssignment>> given) {
    if (given.ok() && given->has_value()) oracle_.OnTaken(**given);
    Answer<std::optional<TaskAssignment>>(std::move(given), done);
  };
  world_.After(world_.Between(1, 20), [this, waiter, most] {
    Push({[this, waiter, most](TaskLedger&, TaskTime now, TaskStep&) {
            waiter->until = now + most;
            commit_->Await(waiter);
          },
          [waiter](const absl::Status& written) {
            if (!written.ok() && waiter->until == TaskTime{}) waiter->done(written);
          }});
  });
}

void TaskServer::WakeIn(milliseconds delay) {
  const Time at = world_.world.now() + delay;
  if (wake_at_ > world_.world.now() && wake_at_ <= at) return;
  wake_at_ = at;
  world_.After(delay, [this, number = ++wake_] {
    if (up() && number == wake_) Round();
  });
}

void TaskServer::Round() {
  wake_at_ = {};
  bool dies = false;
  int64_t told = -1;  // how many are told before it is killed
  if (world_.Chance(world_.trouble.kill)) {
    dies = true;
    const int64_t how = world_.Below(4);
    if (how == 0) store_.kill = SimRecords::Kill::kBeforeWrite;
    if (how == 1) store_.kill = SimRecords::Kill::kAfterWrite;
    if (how == 2) told = world_.Below(4);
    world_.Count(how == 0   ? TaskFault::killed_before_write
                 : how == 1 ? TaskFault::killed_after_write
                 : how == 2 ? TaskFault::killed_while_telling
                            : TaskFault::killed);
  }
  oracle_.NextRound();
  TaskGroupCommit::Round round = commit_->Run(calls_, true);
  muted_ = store_.killed;
  if (commit_->failure().ok()) oracle_.OnCounts(commit_->ledger().counts(), commit_->ledger().live());
  for (const TaskGroupCommit::Call& call : round.calls) {
    if (told-- == 0) muted_ = true;
    call.tell(round.written);
  }
  for (TaskGroupCommit::Served& one : round.served) {
    if (told-- == 0) muted_ = true;
    one.waiter->done(std::move(one.task));
  }
  if (!muted_) {
    for (const Listener& listener : listeners) {
      if (!round.news.changed.empty() && listener.on_changed) listener.on_changed(round.news.changed);
      if (!round.news.ended.empty() && listener.on_ended) listener.on_ended(round.news.ended);
      if (round.news.queued && listener.on_queued) listener.on_queued();
    }
  }
  if (dies) return Kill();
  if (commit_->more() || !calls_.empty()) {
    WakeIn(world_.Between(1, slowest_));
  } else if (const std::optional<TaskTime> due = commit_->next_due(); due.has_value()) {
    WakeIn(std::clamp<milliseconds>(*due - Clock(), milliseconds(1), std::chrono::minutes(10)));
  }
}

void TaskServer::Check() {
  const std::string problem = ProblemOf(store_.records());
  if (!problem.empty()) world_.world.Fail(problem);
}

}  // namespace omni::simulation
