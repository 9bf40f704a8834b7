#include "actors/task/task_engine.h"

#include <sys/random.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <list>
#include <mutex>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>

#include "actors/task/task_log.h"
#include "engine/base/threads.h"

namespace omni {
namespace {

uint64_t SystemRandom() {
  uint64_t number = 0;
  // Of eight bytes the call does not fail once the system's pool is filled, for which it waits.
  while (::getrandom(&number, sizeof number, 0) != sizeof number) {
  }
  return number;
}

TaskTime SystemNow() { return std::chrono::time_point_cast<TaskDuration>(std::chrono::system_clock::now()); }

absl::Status Draining() {
  return absl::UnavailableError(
      "this server is being stopped and takes no more tasks; ask another, or later");
}

class Engine : public TaskEngine {
 public:
  Engine(RecordStore& store, Options options)
      : store_(store), options_(std::move(options)), reader_(store), ledger_(store, options_.ledger) {}

  ~Engine() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
    for (Call& call : calls_) call.tell(absl::UnavailableError("the task engine has stopped"));
    for (const auto& waiter : waiters_) waiter->done(absl::UnavailableError("the task engine has stopped"));
  }

  absl::Status Begin() {
    if (absl::Status s = ledger_.Load(options_.now()); !s.ok()) return s;
    Publish();
    if (absl::Status s = CheckThreads(1, "keep tasks"); !s.ok()) return s;
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  void Submit(TaskSubmission submission, Done<TaskSubmitted> done) override {
    Post<TaskSubmitted>(
        [this, submission = std::move(submission)](TaskTime now, TaskStep& step) {
          return Accepting().ok() ? ledger_.Submit(submission, now, step) : Accepting();
        },
        std::move(done));
  }
  void Cancel(TaskClient by, TaskId id, Done<TaskState> done) override {
    Post<TaskState>([this, by = std::move(by), id = std::move(id)](
                        TaskTime now, TaskStep& step) { return ledger_.Cancel(by, id, now, step); },
                    std::move(done));
  }
  void Retry(TaskClient by, TaskId id, Done<TaskState> done) override {
    Post<TaskState>(
        [this, by = std::move(by), id = std::move(id)](TaskTime now, TaskStep& step) {
          return Accepting().ok() ? ledger_.Retry(by, id, now, step) : Accepting();
        },
        std::move(done));
  }
  void Purge(TaskClient by, TaskId id, Told told) override {
    PostStatus([this, by = std::move(by), id = std::move(id)](
                   TaskTime now, TaskStep& step) { return ledger_.Purge(by, id, now, step); },
               std::move(told));
  }
  void Take(std::string worker, std::string node, std::vector<TaskOffer> offers,
            Done<std::optional<TaskAssignment>> done) override {
    Post<std::optional<TaskAssignment>>(
        [this, worker = std::move(worker), node = std::move(node), offers = std::move(offers)](
            TaskTime now, TaskStep& step) -> absl::StatusOr<std::optional<TaskAssignment>> {
          if (!Accepting().ok()) return std::nullopt;
          return ledger_.Take(worker, node, offers, now, step);
        },
        std::move(done));
  }
  void Await(std::string worker, std::string node, std::vector<TaskOffer> offers, TaskDuration most,
             Done<std::optional<TaskAssignment>> done) override {
    auto waiter = std::make_shared<Waiter>(
        Waiter{std::move(worker), std::move(node), std::move(offers), {}, std::move(done)});
    Push({[this, waiter, most](TaskTime now, TaskStep&) {
            waiter->until = now + most;
            waiters_.push_back(waiter);
          },
          // It is told when it has something, or has waited for long enough.
          [waiter](const absl::Status& written) {
            if (!written.ok() && waiter->until == TaskTime{}) waiter->done(written);
          }});
  }
  void Report(std::string token, TaskReport report, Done<TaskLedger::Told> done) override {
    Post<TaskLedger::Told>(
        [this, token = std::move(token), report = std::move(report)](TaskTime now, TaskStep& step) {
          return ledger_.Report(token, report, now, step);
        },
        std::move(done));
  }
  void Succeed(std::string token, TaskReport last, std::string result, Told told) override {
    PostStatus([this, token = std::move(token), last = std::move(last), result = std::move(result)](
                   TaskTime now, TaskStep& step) { return ledger_.Succeed(token, last, result, now, step); },
               std::move(told));
  }
  void Fail(std::string token, TaskReport last, std::string error, std::string message, Told told) override {
    PostStatus(
        [this, token = std::move(token), last = std::move(last), error = std::move(error),
         message = std::move(message)](TaskTime now, TaskStep& step) {
          return ledger_.Fail(token, last, error, message, now, step);
        },
        std::move(told));
  }
  void Return(std::string token, Told told) override {
    PostStatus([this, token = std::move(token)](TaskTime now,
                                                TaskStep& step) { return ledger_.Return(token, now, step); },
               std::move(told));
  }
  void EndLeases(std::string node, std::string but_worker, Told told) override {
    PostStatus([this, node = std::move(node), worker = std::move(but_worker)](
                   TaskTime now, TaskStep& step) { return ledger_.EndLeases(node, worker, now, step); },
               std::move(told));
  }
  void PutSchedule(TaskSchedule schedule, Told told) override {
    PostStatus([this, schedule = std::move(schedule)](
                   TaskTime now, TaskStep& step) { return ledger_.PutSchedule(schedule, now, step); },
               std::move(told));
  }
  void DeleteSchedule(std::string caller, std::string name, Told told) override {
    PostStatus([this, caller = std::move(caller), name = std::move(name)](
                   TaskTime, TaskStep& step) { return ledger_.DeleteSchedule(caller, name, step); },
               std::move(told));
  }

  void AddListener(TaskListener* listener) override {
    const std::lock_guard lock(listeners_mutex_);
    listeners_.insert(listener);
  }
  void RemoveListener(TaskListener* listener) override {
    const std::lock_guard lock(listeners_mutex_);
    listeners_.erase(listener);
  }

  void Drain() override {
    {
      const std::lock_guard lock(mutex_);
      draining_ = true;
      figures_.draining = true;
    }
    wake_.notify_all();
  }
  void Wake() override {
    {
      const std::lock_guard lock(mutex_);
      woken_ = true;
    }
    wake_.notify_all();
  }

  const TaskReader& reader() const override { return reader_; }
  TaskFigures figures() const override {
    const std::lock_guard lock(mutex_);
    return figures_;
  }

 private:
  struct Call {
    std::function<void(TaskTime, TaskStep&)> decide;
    std::function<void(const absl::Status& written)> tell;
  };

  struct Waiter {
    std::string worker, node;
    std::vector<TaskOffer> offers;
    TaskTime until;  // {}: it has not begun
    Done<std::optional<TaskAssignment>> done;
  };
  struct Served {
    std::shared_ptr<Waiter> waiter;
    std::optional<TaskAssignment> task;
  };

  template <typename T, typename Decide>
  void Post(Decide decide, Done<T> done) {
    auto result = std::make_shared<absl::StatusOr<T>>(absl::UnknownError(""));
    Push({[result, decide = std::move(decide)](TaskTime now, TaskStep& step) { *result = decide(now, step); },
          [result, done = std::move(done)](const absl::Status& written) {
            done(written.ok() ? std::move(*result) : absl::StatusOr<T>(written));
          }});
  }
  template <typename Decide>
  void PostStatus(Decide decide, Told told) {
    auto result = std::make_shared<absl::Status>();
    Push({[result, decide = std::move(decide)](TaskTime now, TaskStep& step) { *result = decide(now, step); },
          [result, told = std::move(told)](const absl::Status& written) {
            told(written.ok() ? *result : written);
          }});
  }

  void Push(Call call) {
    absl::Status refused;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) {
        refused = absl::UnavailableError("the task engine has stopped");
      } else if (calls_.size() >= options_.waiting_calls) {
        refused = absl::ResourceExhaustedError(
            absl::StrCat(calls_.size(), " calls about tasks wait for the disk already; try again later"));
      } else {
        calls_.push_back(std::move(call));
      }
    }
    if (!refused.ok()) {
      call.tell(refused);
      return;
    }
    wake_.notify_one();
  }

  absl::Status Accepting() const {
    const std::lock_guard lock(mutex_);
    return draining_ ? Draining() : absl::OkStatus();
  }

  // Waits until there is something to do; false: the engine stops.
  bool Wait() {
    std::unique_lock lock(mutex_);
    const auto ready = [&] { return stopping_ || woken_ || !calls_.empty(); };
    while (!ready() && !more_) {
      std::optional<TaskTime> due = ledger_.next_due();
      const TaskTime now = options_.now();
      if (!broken_.ok()) due = now + options_.recover_every;
      for (const std::shared_ptr<Waiter>& waiter : waiters_)
        due = std::min(due.value_or(waiter->until), waiter->until);
      if (due.has_value() && *due <= now) break;
      // Whole milliseconds, rounded up, so that it is due when it wakes; and a clock may be set meanwhile.
      const TaskDuration wait = std::min<TaskDuration>(due.has_value() ? *due - now : std::chrono::seconds(1),
                                                       std::chrono::seconds(1));
      if (!wake_.wait_for(lock, wait, ready)) break;
    }
    woken_ = false;
    return !stopping_;
  }

  std::vector<Call> TakeCalls(size_t most) {
    const std::lock_guard lock(mutex_);
    std::vector<Call> taken;
    for (; !calls_.empty() && taken.size() < most; calls_.pop_front())
      taken.push_back(std::move(calls_.front()));
    return taken;
  }
  void PutBack(std::vector<Call>& calls, size_t from) {
    const std::lock_guard lock(mutex_);
    for (size_t i = calls.size(); i > from; --i) calls_.push_front(std::move(calls[i - 1]));
    calls.resize(from);
  }

  void Run() {
    while (Wait()) {
      if (!broken_.ok()) Recover();
      Step();
    }
  }

  void Step() {
    // Half for what is due and one call, so that neither starves the other.
    const size_t most = store_.max_changes() / 2;
    std::vector<Call> calls = TakeCalls(options_.waiting_calls);
    absl::Status status = broken_;
    TaskStep step;
    more_ = false;
    size_t decided = 0;
    if (status.ok()) {
      const absl::StatusOr<bool> more = ledger_.Settle(options_.now(), most / 2, step);
      status = more.status();
      if (more.ok()) more_ = *more;
    }
    for (; decided < calls.size() && status.ok() && (decided == 0 || HasRoom(step, most)); ++decided) {
      calls[decided].decide(options_.now(), step);
      if (ledger_.failed()) status = absl::UnavailableError("the records of tasks cannot be read");
    }
    if (status.ok()) PutBack(calls, decided);
    std::vector<Served> served;
    if (status.ok()) status = Serve(most, step, served);
    if (status.ok() && !step.writes.empty()) {
      status = store_.Write(step.writes);
      ++syncs_;
      writes_ += static_cast<int64_t>(step.writes.size());
    }
    if (!status.ok() && broken_.ok()) {
      LogTaskStoreFailed(status);
      broken_ = absl::IsResourceExhausted(status) ? status : absl::UnavailableError(status.message());
    }
    Publish();
    for (Call& call : calls) call.tell(broken_);
    for (Served& one : served) {
      if (broken_.ok()) {
        one.waiter->done(std::move(one.task));
      } else {
        one.waiter->done(broken_);
      }
    }
    if (!broken_.ok()) return;
    const std::lock_guard lock(listeners_mutex_);
    // A listener may remove itself, or another.
    const std::vector<TaskListener*> listeners(listeners_.begin(), listeners_.end());
    for (TaskListener* listener : listeners) {
      const auto tell = [&](auto call) {
        if (listeners_.contains(listener)) call();
      };
      if (!step.changed.empty()) tell([&] { listener->OnChanged(step.changed); });
      if (!step.ended.empty()) tell([&] { listener->OnEnded(step.ended); });
      if (step.queued) tell([&] { listener->OnQueued(); });
    }
  }

  // Whether one more call's changes certainly go into the step: a call has at most half of what a write may
  // have.
  bool HasRoom(const TaskStep& step, size_t most) const {
    if (step.writes.size() >= most) return false;
    if (store_.max_bytes() == 0) return true;
    size_t bytes = 0;
    for (const auto& [key, value] : step.writes)
      bytes += key.size() + (value.has_value() ? value->size() : 0);
    return bytes < store_.max_bytes() * 2 / 5;
  }

  // Those who wait for a task, in the order in which they came.
  absl::Status Serve(size_t most, TaskStep& step, std::vector<Served>& served) {
    const TaskTime now = options_.now();
    const bool accepting = Accepting().ok();
    for (auto at = waiters_.begin(); at != waiters_.end();) {
      const std::shared_ptr<Waiter> waiter = *at;
      absl::StatusOr<std::optional<TaskAssignment>> given = std::nullopt;
      if (accepting && ledger_.queued() > 0) {
        if (!HasRoom(step, most)) {
          more_ = true;
          return absl::OkStatus();
        }
        given = ledger_.Take(waiter->worker, waiter->node, waiter->offers, now, step);
        if (!given.ok()) return given.status();
      }
      if (!given->has_value() && accepting && now < waiter->until) {
        ++at;
        continue;
      }
      served.push_back({waiter, *std::move(given)});
      at = waiters_.erase(at);
    }
    return absl::OkStatus();
  }

  // What was decided last may or may not have been written: the records say which.
  void Recover() {
    const TaskTime now = options_.now();
    if (now < recovered_ + options_.recover_every && now >= recovered_) return;
    recovered_ = now;
    absl::Status s = store_.Recover();
    if (s.ok()) s = ledger_.Load(options_.now());
    if (!s.ok()) return;
    LogTaskStoreRecovered();
    broken_ = absl::OkStatus();
    const std::lock_guard lock(listeners_mutex_);
    const std::vector<TaskListener*> listeners(listeners_.begin(), listeners_.end());
    for (TaskListener* listener : listeners)
      if (listeners_.contains(listener)) listener->OnQueued();
  }

  void Publish() {
    const std::lock_guard lock(mutex_);
    figures_ = {ledger_.counts(), ledger_.live(), syncs_, writes_, draining_, broken_};
  }

  RecordStore& store_;
  const Options options_;
  const TaskReader reader_;

  // Of the engine's thread.
  TaskLedger ledger_;
  absl::Status broken_;
  TaskTime recovered_{};  // when that was last tried
  bool more_ = false;
  std::list<std::shared_ptr<Waiter>> waiters_;
  int64_t syncs_ = 0, writes_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Call> calls_;
  bool stopping_ = false, draining_ = false, woken_ = false;
  TaskFigures figures_;

  std::recursive_mutex listeners_mutex_;  // also held while they are called, and they may remove themselves
  std::set<TaskListener*> listeners_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TaskEngine>> TaskEngine::Start(RecordStore& store, Options options) {
  if (!options.ledger.random) options.ledger.random = SystemRandom;
  if (!options.now) options.now = SystemNow;
  auto engine = std::make_unique<Engine>(store, std::move(options));
  if (absl::Status s = engine->Begin(); !s.ok()) return s;
  return engine;
}

}  // namespace omni
