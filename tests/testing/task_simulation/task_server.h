// A task server: what TaskEngine does, without its thread, on a clock of its own. It may be killed in the
// middle of anything.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "actors/task/group_commit.h"
#include "actors/task/task_reader.h"
#include "tests/testing/task_simulation/oracle.h"
#include "tests/testing/task_simulation/sim_records.h"
#include "tests/testing/task_simulation/task_faults.h"

namespace omni::simulation {

class TaskServer {
 public:
  static constexpr TaskDuration kLease = std::chrono::seconds(15), kRetain = std::chrono::hours(1);

  // Told of what has changed, as a TaskListener is, but over a network: not when the server was killed.
  struct Listener {
    std::function<void()> on_started = {}, on_queued = {};
    std::function<void(const std::set<TaskId>&)> on_changed = {};
    std::function<void(const std::vector<std::string>&)> on_ended = {};
  };

  explicit TaskServer(TaskWorld& world);

  void Start();
  void Kill();
  bool up() const { return commit_ != nullptr; }
  TaskTime Clock() const;
  void SetClock(TaskDuration ahead);  // by that much

  template <typename T>
  using Decide = std::function<absl::StatusOr<T>(TaskLedger&, TaskTime, TaskStep&)>;
  // Over the network: the call, or its answer, may be lost. `seen` sees the answer where it is given, and
  // when it was decided.
  template <typename T>
  void Call(Decide<T> decide, std::function<void(const T&, TaskTime)> seen,
            std::function<void(absl::StatusOr<T>)> done) {
    if (world_.Chance(world_.trouble.lost)) return world_.Count(TaskFault::call_lost);
    world_.After(world_.Between(1, 20),
                 [this, decide = std::move(decide), seen = std::move(seen), done = std::move(done)] {
                   auto result = std::make_shared<absl::StatusOr<T>>(absl::UnknownError(""));
                   auto at = std::make_shared<TaskTime>();
                   Push({[result, at, decide](TaskLedger& ledger, TaskTime now, TaskStep& step) {
                           *at = now;
                           *result = decide(ledger, now, step);
                         },
                         [this, result, at, seen, done](const absl::Status& written) {
                           absl::StatusOr<T> answer = written.ok() ? *result : absl::StatusOr<T>(written);
                           if (answer.ok() && seen) seen(*answer, *at);
                           Answer<T>(std::move(answer), done);
                         }});
                 });
  }
  // The same for a task, which is waited for.
  void Await(std::string worker, std::string node, std::vector<TaskOffer> offers, TaskDuration most,
             std::function<void(absl::StatusOr<std::optional<TaskAssignment>>)> done);

  std::vector<Listener> listeners;
  TaskOracle& oracle() { return oracle_; }
  SimRecords& store() { return store_; }
  const TaskReader& reader() const { return reader_; }

 private:
  void Push(TaskGroupCommit::Call call);
  void WakeIn(milliseconds delay);
  void Round();
  void Check();
  template <typename T>
  void Answer(absl::StatusOr<T> answer, const std::function<void(absl::StatusOr<T>)>& done) {
    if (muted_) return;
    if (world_.Chance(world_.trouble.lost)) return world_.Count(TaskFault::answer_lost);
    world_.After(world_.Between(1, 20), [done, answer = std::move(answer)] { done(answer); });
  }

  TaskWorld& world_;
  const Time start_;
  TaskDuration ahead_{0};
  const int64_t slowest_;  // of its rounds, in ms
  TaskOracle oracle_;
  SimRecords store_;
  const TaskReader reader_;
  std::unique_ptr<TaskGroupCommit> commit_;
  std::deque<TaskGroupCommit::Call> calls_;
  int64_t wake_ = 0;  // the number of the last that is planned; earlier ones do nothing
  Time wake_at_{};
  bool muted_ = false;
};

}  // namespace omni::simulation
