#include "actors/task/task_engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>

#include "actors/task/group_commit.h"
#include "actors/task/task_listeners.h"
#include "engine/base/random.h"
#include "engine/base/threads.h"

namespace omni {
namespace {

// The system's, but it goes on even if that is set back, or no lease would end until it has caught up.
class SystemClock {
 public:
  TaskTime operator()() {
    const auto passed = std::chrono::steady_clock::now();
    const auto now = std::chrono::system_clock::now();
    const std::lock_guard lock(mutex_);
    last_ =
        std::max(now, last_ + std::chrono::duration_cast<std::chrono::system_clock::duration>(passed - at_));
    at_ = passed;
    return std::chrono::time_point_cast<TaskDuration>(last_);
  }

 private:
  std::mutex mutex_;
  std::chrono::steady_clock::time_point at_ = std::chrono::steady_clock::now();
  std::chrono::system_clock::time_point last_ = std::chrono::system_clock::now();
};

size_t BytesOf(const TaskSpec& spec) {
  size_t bytes = spec.input.size() + 256;
  for (const TaskSpec& child : spec.children) bytes += BytesOf(child);
  return bytes;
}

size_t BytesOf(const TaskReport& report) {
  size_t bytes = report.checkpoint.size();
  for (const TaskReport::Item& item : report.items) bytes += item.name.size() + item.data.size() + 128;
  return bytes;
}

absl::Status Draining() {
  return absl::UnavailableError(
      "this server is being stopped and takes no more tasks; ask another, or later");
}

class Engine : public TaskEngine {
 public:
  Engine(RecordStore& store, Options options)
      : options_(std::move(options)),
        reader_(store),
        commit_(store, {options_.ledger, options_.now, options_.recover_every}) {}

  ~Engine() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
    const absl::Status stopped = absl::UnavailableError("the task engine has stopped");
    for (const Call& call : calls_) call.tell(stopped);
    for (const auto& waiter : commit_.waiters()) waiter->done(stopped);
  }

  absl::Status Begin() {
    if (absl::Status s = commit_.Load(); !s.ok()) return s;
    std::deque<Call> none;
    Publish({}, none);
    if (absl::Status s = CheckThreads(1, "keep tasks"); !s.ok()) return s;
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  void Submit(TaskSubmission submission, Done<TaskSubmitted> done) override {
    const size_t bytes = BytesOf(submission.spec);
    Post<TaskSubmitted>(
        [this, submission = std::move(submission)](TaskLedger& ledger, TaskTime now, TaskStep& step) {
          return Accepting().ok() ? ledger.Submit(submission, now, step) : Accepting();
        },
        std::move(done), bytes);
  }
  void Cancel(TaskClient by, TaskId id, Done<TaskState> done) override {
    Post<TaskState>(
        [by = std::move(by), id = std::move(id)](TaskLedger& ledger, TaskTime now, TaskStep& step) {
          return ledger.Cancel(by, id, now, step);
        },
        std::move(done));
  }
  void Retry(TaskClient by, TaskId id, Done<TaskState> done) override {
    Post<TaskState>(
        [this, by = std::move(by), id = std::move(id)](TaskLedger& ledger, TaskTime now, TaskStep& step) {
          return Accepting().ok() ? ledger.Retry(by, id, now, step) : Accepting();
        },
        std::move(done));
  }
  void Purge(TaskClient by, TaskId id, Told told) override {
    PostStatus(
        [by = std::move(by), id = std::move(id)](TaskLedger& ledger, TaskTime now, TaskStep& step) {
          return ledger.Purge(by, id, now, step);
        },
        std::move(told));
  }
  void Take(std::string worker, std::string node, std::vector<TaskOffer> offers,
            Done<std::optional<TaskAssignment>> done) override {
    Post<std::optional<TaskAssignment>>(
        [this, worker = std::move(worker), node = std::move(node), offers = std::move(offers)](
            TaskLedger& ledger, TaskTime now,
            TaskStep& step) -> absl::StatusOr<std::optional<TaskAssignment>> {
          if (!Accepting().ok()) return std::nullopt;
          return ledger.Take(worker, node, offers, now, step);
        },
        std::move(done));
  }
  void Await(std::string worker, std::string node, std::vector<TaskOffer> offers, TaskDuration most,
             Done<std::optional<TaskAssignment>> done) override {
    auto waiter = std::make_shared<TaskGroupCommit::Waiter>(
        TaskGroupCommit::Waiter{std::move(worker), std::move(node), std::move(offers), {}, std::move(done)});
    Push({[this, waiter, most](TaskLedger&, TaskTime now, TaskStep&) {
            waiter->until = now + most;
            commit_.Await(waiter);
          },
          // It is told when it has something, or has waited for long enough.
          [waiter](const absl::Status& written) {
            if (!written.ok() && waiter->until == TaskTime{}) waiter->done(written);
          }});
  }
  void Report(std::string token, TaskReport report, Done<TaskLedger::Told> done) override {
    const size_t bytes = BytesOf(report);
    Post<TaskLedger::Told>([token = std::move(token), report = std::move(report)](
                               TaskLedger& ledger, TaskTime now,
                               TaskStep& step) { return ledger.Report(token, report, now, step); },
                           std::move(done), bytes);
  }
  void Succeed(std::string token, TaskReport last, std::string result, Told told) override {
    const size_t bytes = BytesOf(last) + result.size();
    PostStatus([token = std::move(token), last = std::move(last), result = std::move(result)](
                   TaskLedger& ledger, TaskTime now,
                   TaskStep& step) { return ledger.Succeed(token, last, result, now, step); },
               std::move(told), bytes);
  }
  void Fail(std::string token, TaskReport last, std::string error, std::string message, Told told) override {
    const size_t bytes = BytesOf(last) + message.size();
    PostStatus(
        [token = std::move(token), last = std::move(last), error = std::move(error),
         message = std::move(message)](TaskLedger& ledger, TaskTime now, TaskStep& step) {
          return ledger.Fail(token, last, error, message, now, step);
        },
        std::move(told), bytes);
  }
  void Return(std::string token, Told told) override {
    PostStatus([token = std::move(token)](TaskLedger& ledger, TaskTime now,
                                          TaskStep& step) { return ledger.Return(token, now, step); },
               std::move(told));
  }
  void EndLeases(std::string node, std::string but_worker, Told told) override {
    PostStatus(
        [node = std::move(node), worker = std::move(but_worker)](TaskLedger& ledger, TaskTime now,
                                                                 TaskStep&) {
          ledger.EndLeases(node, worker, now);
          return absl::OkStatus();
        },
        std::move(told));
  }
  void ReturnLeases(std::string node, std::string worker, Told told) override {
    PostStatus(
        [node = std::move(node), worker = std::move(worker)](TaskLedger& ledger, TaskTime now, TaskStep&) {
          ledger.ReturnLeases(node, worker, now);
          return absl::OkStatus();
        },
        std::move(told));
  }
  void PutSchedule(TaskSchedule schedule, Told told) override {
    const size_t bytes = BytesOf(schedule.spec);
    PostStatus(
        [schedule = std::move(schedule)](TaskLedger& ledger, TaskTime now, TaskStep& step) {
          return ledger.PutSchedule(schedule, now, step);
        },
        std::move(told), bytes);
  }
  void DeleteSchedule(std::string caller, std::string name, Told told) override {
    PostStatus(
        [caller = std::move(caller), name = std::move(name)](TaskLedger& ledger, TaskTime, TaskStep& step) {
          return ledger.DeleteSchedule(caller, name, step);
        },
        std::move(told));
  }
  void PutPush(TaskClient by, TaskPush push, Done<TaskPush> done) override {
    Post<TaskPush>(
        [by = std::move(by), push = std::move(push)](TaskLedger& ledger, TaskTime now, TaskStep& step) {
          return ledger.PutPush(by, push, now, step);
        },
        std::move(done));
  }
  void DeletePush(TaskClient by, TaskId id, std::string name, Told told) override {
    PostStatus(
        [by = std::move(by), id = std::move(id), name = std::move(name)](
            TaskLedger& ledger, TaskTime, TaskStep& step) { return ledger.DeletePush(by, id, name, step); },
        std::move(told));
  }
  void Pushed(TaskId id, std::string name, std::string url, int64_t up_to, Told told) override {
    PostStatus([id = std::move(id), name = std::move(name), url = std::move(url), up_to](
                   TaskLedger& ledger, TaskTime,
                   TaskStep& step) { return ledger.Pushed(id, name, url, up_to, step); },
               std::move(told));
  }

  void AddListener(TaskListener* listener) override { listeners_.Add(listener); }
  void RemoveListener(TaskListener* listener) override { listeners_.Remove(listener); }

  void Drain() override {
    {
      const std::lock_guard lock(mutex_);
      draining_ = true;
      figures_.draining = true;
      woken_ = true;
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
  using Call = TaskGroupCommit::Call;

  template <typename T, typename Decide>
  void Post(Decide decide, Done<T> done, size_t bytes = 0) {
    auto result = std::make_shared<absl::StatusOr<T>>(absl::UnknownError(""));
    Push({[result, decide = std::move(decide)](TaskLedger& ledger, TaskTime now, TaskStep& step) {
            *result = decide(ledger, now, step);
          },
          [result, done = std::move(done)](const absl::Status& written) {
            done(written.ok() ? std::move(*result) : absl::StatusOr<T>(written));
          },
          bytes});
  }
  template <typename Decide>
  void PostStatus(Decide decide, Told told, size_t bytes = 0) {
    auto result = std::make_shared<absl::Status>();
    Push({[result, decide = std::move(decide)](TaskLedger& ledger, TaskTime now, TaskStep& step) {
            *result = decide(ledger, now, step);
          },
          [result, told = std::move(told)](const absl::Status& written) {
            told(written.ok() ? *result : written);
          },
          bytes});
  }

  void Push(Call call) {
    absl::Status refused;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) {
        refused = absl::UnavailableError("the task engine has stopped");
      } else if (calls_.size() >= options_.waiting_calls ||
                 waiting_bytes_ + call.bytes > options_.waiting_bytes) {
        refused = absl::ResourceExhaustedError(
            absl::StrCat(calls_.size(), " calls about tasks, of ", waiting_bytes_ >> 20,
                         " MiB, wait for the disk already; try again later"));
      } else {
        waiting_bytes_ += call.bytes;
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
    while (!ready() && !commit_.more()) {
      const std::optional<TaskTime> due = commit_.next_due();
      const TaskTime now = options_.now();
      if (due.has_value() && *due <= now) break;
      // Whole milliseconds, rounded up, so that it is due when it wakes; and a clock may be set meanwhile.
      const TaskDuration wait = std::min<TaskDuration>(due.has_value() ? *due - now : std::chrono::seconds(1),
                                                       std::chrono::seconds(1));
      if (!wake_.wait_for(lock, wait, ready)) break;
    }
    woken_ = false;
    return !stopping_;
  }

  void Run() {
    while (Wait()) {
      std::deque<Call> calls;
      {
        const std::lock_guard lock(mutex_);
        calls.swap(calls_);
      }
      TaskGroupCommit::Round round = commit_.Run(calls, Accepting().ok());
      Publish(round, calls);
      for (const Call& call : round.calls) call.tell(round.written);
      for (TaskGroupCommit::Served& one : round.served) one.waiter->done(std::move(one.task));
      Tell(round.news);
    }
  }

  void Tell(const TaskStep& news) {
    if (!news.changed.empty()) listeners_.Tell([&](TaskListener& l) { l.OnChanged(news.changed); });
    if (!news.ended.empty()) listeners_.Tell([&](TaskListener& l) { l.OnEnded(news.ended); });
    if (news.queued) listeners_.Tell([](TaskListener& l) { l.OnQueued(); });
  }

  // Before anybody is told: who then asks for the figures sees what it was told of.
  void Publish(const TaskGroupCommit::Round& round, std::deque<Call>& undecided) {
    const TaskLedger& ledger = commit_.ledger();
    const std::lock_guard lock(mutex_);
    for (const Call& call : round.calls) waiting_bytes_ -= call.bytes;
    if (calls_.empty()) {
      calls_.swap(undecided);
    } else {
      calls_.insert(calls_.begin(), std::make_move_iterator(undecided.begin()),
                    std::make_move_iterator(undecided.end()));
    }
    figures_ = {ledger.counts(),  ledger.live(), commit_.syncs(),
                commit_.writes(), draining_,     commit_.failure()};
  }

  const Options options_;
  const TaskReader reader_;

  TaskGroupCommit commit_;  // of the engine's thread

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Call> calls_;
  size_t waiting_bytes_ = 0;  // of those, and of those being decided
  bool stopping_ = false, draining_ = false, woken_ = false;
  TaskFigures figures_;

  TaskListeners listeners_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<TaskEngine>> TaskEngine::Start(RecordStore& store, Options options) {
  if (!options.ledger.random) options.ledger.random = SystemRandom;
  if (!options.now) options.now = [clock = std::make_shared<SystemClock>()] { return (*clock)(); };
  auto engine = std::make_unique<Engine>(store, std::move(options));
  if (absl::Status s = engine->Begin(); !s.ok()) return s;
  return engine;
}

}  // namespace omni
