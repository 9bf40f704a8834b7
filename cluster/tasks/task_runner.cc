#include "cluster/tasks/task_runner.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <list>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/tasks/running_task.h"
#include "engine/base/random.h"
#include "engine/base/threads.h"

namespace omni {
namespace {

using Time = std::chrono::milliseconds;  // of the runner's clock
constexpr int kMostTakes = 4;            // under way, of an executor
constexpr char kErrorException[] = "exception";

Time MachineNow() {
  return std::chrono::duration_cast<Time>(std::chrono::steady_clock::now().time_since_epoch());
}

bool TakenAway(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) || absl::IsNotFound(status);
}
bool Refused(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsOutOfRange(status) || absl::IsUnimplemented(status);
}

struct Message {
  enum class Kind { kReport, kSucceed, kFail, kReturn } kind = Kind::kReport;
  TaskReport report = {};
  std::string result = {}, error = {}, message = {};
};

struct Attempt {
  std::shared_ptr<RunningTask> task;
  size_t executor = 0;
  std::thread thread;
  bool ended = false;  // the thread has said what became of it
  bool lost = false;
  std::optional<TaskOutcome> overruled;  // what it is said to have come to, whatever its executor says
  std::optional<Time> told_since, deadline;
  Time lease_until{}, last_sent{}, again{};
  std::optional<Message> message;  // on its way, or to be sent again
  bool under_way = false, report_soon = false;
  Time wait{};  // before it is sent again
  int64_t number = 0;
};

}  // namespace

struct TaskRunner::Impl : public TaskListener, public std::enable_shared_from_this<Impl> {
  struct Kind {
    TaskExecutor* executor = nullptr;
    std::vector<TaskExecutor::Offer> offers;
    int slots = 0, running = 0, takes = 0;
    int wanted = 0;  // takes to be sent: there may be something
    Time look{}, not_before{};
  };

  Impl(TaskLender& l, std::vector<TaskExecutor*> executors, TaskRunnerOptions o)
      : lender(l), options(std::move(o)), worker(RandomHex(32)) {
    if (!options.now) options.now = MachineNow;
    options.unsaid_bytes = std::max(options.unsaid_bytes, 2 * options.limits.report_bytes);
    for (TaskExecutor* executor : executors)
      kinds.push_back({executor, executor->offers(), executor->slots()});
  }

  // --- From any thread

  void OnQueued() override {
    Post([this] {
      for (Kind& kind : kinds) kind.wanted = std::max(kind.wanted, 1);
    });
  }
  void OnEnded(const std::vector<std::string>& leases) override {
    // Whether they were taken away or are to be cancelled is what the answer to a report says.
    Post([this, leases] {
      for (const auto& attempt : attempts)
        if (std::find(leases.begin(), leases.end(), attempt->task->task().token) != leases.end())
          attempt->report_soon = true;
    });
  }
  // False: the runner is over.
  bool Post(std::function<void()> deed) {
    {
      const std::lock_guard lock(mutex);
      if (over) return false;
      deeds.push_back(std::move(deed));
    }
    news.notify_one();
    return true;
  }

  // --- On the runner's thread

  void Run() {
    std::unique_lock lock(mutex);
    while (true) {
      std::deque<std::function<void()>> now_due;
      now_due.swap(deeds);
      lock.unlock();
      for (auto& deed : now_due) deed();
      now_due.clear();
      const Time now = options.now();
      Look(now);
      for (auto at = attempts.begin(); at != attempts.end();)
        Tend(**at, now) ? at = attempts.erase(at) : ++at;
      const std::optional<Time> due = NextDue();
      lock.lock();
      running.assign(kinds.size(), 0);
      for (size_t i = 0; i < kinds.size(); ++i) running[i] = kinds[i].running;
      if (draining && attempts.empty() && deeds.empty()) {
        over = true;
        drained.notify_all();
        return;
      }
      const auto ready = [this] { return !deeds.empty(); };
      if (!due.has_value()) {
        news.wait(lock, ready);
      } else if (*due > now) {
        news.wait_for(lock, *due - now, ready);
      }
    }
  }

  std::optional<Time> NextDue() const {
    std::optional<Time> due;
    const auto at = [&](Time time) { due = due.has_value() ? std::min(*due, time) : time; };
    for (const Kind& kind : kinds)
      if (!draining && MayTake(kind)) at(kind.wanted > 0 ? kind.not_before : kind.look);
    for (const auto& a : attempts) {
      if (!a->lost) at(a->lease_until);
      if (a->deadline.has_value()) at(*a->deadline);
      if (a->under_way || a->lost) continue;
      if (a->message.has_value()) {
        at(a->again);
      } else {
        at(NextReportAt(*a));
      }
    }
    return due;
  }

  Time NextReportAt(const Attempt& a) const {
    if (a.report_soon) return Time(0);
    Time at = a.last_sent + a.task->task().lease / 3;
    if (a.told_since.has_value()) at = std::min(at, *a.told_since + options.batch);
    return at;
  }

  static bool MayTake(const Kind& kind) {
    return kind.takes < kMostTakes && kind.running + kind.takes < kind.slots && kind.executor->ready();
  }

  void Look(Time now) {
    if (draining) return;
    for (size_t k = 0; k < kinds.size(); ++k) {
      Kind& kind = kinds[k];
      if (now >= kind.look) kind.wanted = std::max(kind.wanted, 1);
      for (; kind.wanted > 0 && now >= kind.not_before && MayTake(kind); --kind.wanted) {
        ++kind.takes;
        kind.look = now + options.look_every;
        Take(k);
      }
    }
  }

  void Take(size_t k) {
    std::vector<TaskOffer> offers;
    for (const TaskExecutor::Offer& offer : kinds[k].offers) offers.push_back(offer.offer);
    lender.Await(worker, options.node, std::move(offers), options.look_every,
                 [self = shared_from_this(), k](absl::StatusOr<std::optional<TaskAssignment>> taken) {
                   const Time told = self->options.now();
                   const std::string token = taken.ok() && taken->has_value() ? (*taken)->token : "";
                   const bool heard = self->Post(
                       [self, k, told, taken = std::move(taken)] { self->OnTaken(k, told, taken); });
                   // It came when the runner was over.
                   if (!heard && !token.empty()) self->lender.Return(token, [](const absl::Status&) {});
                 });
  }

  void OnTaken(size_t k, Time told, const absl::StatusOr<std::optional<TaskAssignment>>& taken) {
    Kind& kind = kinds[k];
    --kind.takes;
    if (!taken.ok()) {
      kind.wanted = std::max(kind.wanted, 1);
      kind.not_before = options.now() + options.most_again;
      return;
    }
    if (!taken->has_value()) return;
    kind.wanted = std::min(kind.wanted + 2, kMostTakes);  // where one was there may be more
    Begin(k, told, **taken);
  }

  void Begin(size_t k, Time told, TaskAssignment assignment) {
    auto attempt = std::make_unique<Attempt>();
    Attempt& a = *attempt;
    a.executor = k;
    a.last_sent = options.now();
    a.lease_until = told + assignment.lease;
    // The lender's clock is another one.
    if (assignment.deadline != TaskTime{})
      a.deadline = a.last_sent + std::max(assignment.deadline - assignment.state.updated, TaskDuration(0));
    const std::weak_ptr<Impl> weak = weak_from_this();
    RunningTask::Options with;
    with.limits = options.limits;
    with.batch_bytes = options.batch_bytes;
    with.unsaid_bytes = options.unsaid_bytes;
    with.on_told = [weak] {
      if (const auto self = weak.lock()) self->Post([] {});
    };
    a.task = std::make_shared<RunningTask>(std::move(assignment), std::move(with));
    ++kinds[k].running;
    attempts.push_back(std::move(attempt));
    if (draining) {
      a.task->SetOutcome(TaskOutcome::Returned());
      a.ended = true;
      return;
    }
    try {
      a.thread = std::thread([this, task = a.task, executor = kinds[k].executor] {
        task->SetOutcome(Outcome(*executor, *task));
        Post([this, task] {
          for (const auto& attempt : attempts)
            if (attempt->task == task) attempt->ended = true;
        });
      });
    } catch (const std::system_error&) {
      a.task->SetOutcome(TaskOutcome::Returned());
      a.ended = true;
      kinds[k].not_before = options.now() + options.most_again;
    }
  }

  static TaskOutcome Outcome(TaskExecutor& executor, RunningTask& task) {
    try {
      TaskOutcome outcome = executor.Run(task);
      task.SetOnStop(nullptr);
      return outcome;
    } catch (const std::exception& e) {
      task.SetOnStop(nullptr);
      return TaskOutcome::Failed(kErrorException, e.what());
    } catch (...) {
      task.SetOnStop(nullptr);
      return TaskOutcome::Failed(kErrorException, "the executor threw what is no exception");
    }
  }

  // True: nothing is left of it.
  bool Tend(Attempt& a, Time now) {
    if (!a.lost && now >= a.lease_until) Lose(a);
    if (a.deadline.has_value() && now >= *a.deadline) {
      a.deadline.reset();
      a.task->SetStop(TaskAttempt::Stop::kTimeout);
    }
    const RunningTask::Waiting waiting = a.task->waiting();
    if (!waiting.any) a.told_since.reset();
    if (waiting.any && !a.told_since.has_value()) a.told_since = now;
    if (a.lost) return a.ended && Finish(a);
    if (a.under_way) return false;
    if (a.message.has_value()) {
      if (now >= a.again) Send(a, now);
      return false;
    }
    if (a.ended) {
      End(a, now);
    } else if (waiting.enough || now >= NextReportAt(a)) {
      a.message = Message{.report = a.task->NextReport(false).value_or(TaskReport{})};
      a.told_since.reset();
      // Nothing but what waits for a piece of a checkpoint: only a heartbeat is due.
      const bool empty = a.message->report.items.empty() && a.message->report.checkpoint.empty();
      if (empty && !a.report_soon && now < a.last_sent + a.task->task().lease / 3) {
        a.message.reset();
        a.told_since = now;
        return false;
      }
      a.report_soon = false;
      Number(a);
      Send(a, now);
    }
    return false;
  }

  void Number(Attempt& a) { a.message->report.number = ++a.number; }

  // Its executor is done: what is left is told with what it came to, or before, if it is too much.
  void End(Attempt& a, Time now) {
    TaskOutcome outcome = a.overruled.value_or(*a.task->outcome());
    const bool succeeded = outcome.kind == TaskOutcome::Kind::kSucceeded;
    if (!succeeded) a.task->DropUnpointed();
    Message message{.report = a.task->NextReport(succeeded).value_or(TaskReport{})};
    const bool more = a.task->waiting().any;
    const bool empty = message.report.items.empty() && message.report.checkpoint.empty();
    if (more || (outcome.kind == TaskOutcome::Kind::kReturned && !empty)) {
      message.kind = Message::Kind::kReport;
    } else if (succeeded) {
      message.kind = Message::Kind::kSucceed;
      message.result = std::move(outcome.result);
    } else if (outcome.kind == TaskOutcome::Kind::kReturned) {
      message.kind = Message::Kind::kReturn;
    } else {
      message.kind = Message::Kind::kFail;
      message.error = std::move(outcome.error);
      message.message = std::move(outcome.message);
    }
    a.message = std::move(message);
    Number(a);
    Send(a, now);
  }

  void Send(Attempt& a, Time now) {
    a.under_way = true;
    a.last_sent = now;
    const std::string& token = a.task->task().token;
    const auto told = [self = shared_from_this(), task = a.task, now](const absl::Status& status,
                                                                      bool cancel) {
      self->Post([self, task, now, status, cancel] {
        for (const auto& attempt : self->attempts)
          if (attempt->task == task) self->OnTold(*attempt, now, status, cancel);
      });
    };
    const Message& m = *a.message;
    switch (m.kind) {
      case Message::Kind::kReport:
        return lender.Report(token, m.report, [told](absl::StatusOr<TaskLedger::Told> answer) {
          told(answer.status(), answer.ok() && answer->cancel);
        });
      case Message::Kind::kSucceed:
        return lender.Succeed(token, m.report, m.result, [told](const absl::Status& s) { told(s, false); });
      case Message::Kind::kFail:
        return lender.Fail(token, m.report, m.error, m.message,
                           [told](const absl::Status& s) { told(s, false); });
      case Message::Kind::kReturn:
        return lender.Return(token, [told](const absl::Status& s) { told(s, false); });
    }
  }

  void OnTold(Attempt& a, Time sent, const absl::Status& status, bool cancel) {
    if (a.lost) return;
    a.under_way = false;
    const Message::Kind kind = a.message->kind;
    if (!status.ok() && !TakenAway(status) && !Refused(status)) {
      a.wait = std::clamp(a.wait * 2, Time(options.again), Time(options.most_again));
      a.again = options.now() + a.wait;
      return;
    }
    a.wait = Time(0);
    a.message.reset();
    a.task->OnSaid();
    if (TakenAway(status)) return Lose(a);
    if (Refused(status)) return OnRefused(a, kind, status);
    if (kind != Message::Kind::kReport) return Lose(a);  // its end is recorded, and with it the lease is over
    a.lease_until = sent + a.task->task().lease;
    if (cancel) a.task->SetStop(TaskAttempt::Stop::kCancelled);
  }

  // Telling it again would not help: the attempt fails, and what it would still tell is not kept.
  void OnRefused(Attempt& a, Message::Kind kind, const absl::Status& status) {
    if (a.overruled.has_value()) return Lose(a);
    a.overruled = kind == Message::Kind::kFail
                      ? a.task->outcome()
                      : TaskOutcome::Failed(kErrorInvalid, std::string(status.message()));
    a.task->Mute();
    a.task->SetStop(TaskAttempt::Stop::kCancelled);
  }

  void Lose(Attempt& a) {
    a.lost = true;
    a.deadline.reset();
    a.message.reset();
    a.task->Mute();
    if (!a.ended) a.task->SetStop(TaskAttempt::Stop::kLost);
  }

  bool Finish(Attempt& a) {
    if (a.thread.joinable()) a.thread.join();
    --kinds[a.executor].running;
    return true;
  }

  void StartDraining() {
    if (std::exchange(draining, true)) return;
    for (const auto& attempt : attempts) attempt->task->SetStop(TaskAttempt::Stop::kReturn);
  }

  TaskLender& lender;
  TaskRunnerOptions options;
  const std::string worker;

  std::vector<Kind> kinds;  // beside what is const in it, of the runner's thread, like what follows
  std::list<std::unique_ptr<Attempt>> attempts;
  bool draining = false;

  mutable std::mutex mutex;
  std::condition_variable news, drained;
  std::deque<std::function<void()>> deeds;
  std::vector<int> running;
  bool over = false;
  std::thread thread;
};

TaskRunner::TaskRunner(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<TaskRunner>> TaskRunner::Start(TaskLender& lender,
                                                              std::vector<TaskExecutor*> executors,
                                                              TaskRunnerOptions options) {
  if (absl::Status s = CheckThreads(1, "run tasks"); !s.ok()) return s;
  auto impl = std::make_shared<Impl>(lender, std::move(executors), std::move(options));
  impl->thread = std::thread([impl = impl.get()] { impl->Run(); });
  lender.AddListener(impl.get());
  return std::unique_ptr<TaskRunner>(new TaskRunner(std::move(impl)));
}

TaskRunner::~TaskRunner() {
  impl_->lender.RemoveListener(impl_.get());
  Drain();
  impl_->thread.join();
}

void TaskRunner::BeginDrain() {
  impl_->Post([impl = impl_.get()] { impl->StartDraining(); });
}

void TaskRunner::Drain() {
  BeginDrain();
  std::unique_lock lock(impl_->mutex);
  impl_->drained.wait(lock, [this] { return impl_->over; });
}

const std::string& TaskRunner::worker() const { return impl_->worker; }

std::vector<TaskRunner::Offered> TaskRunner::offered() const {
  const std::lock_guard lock(impl_->mutex);
  std::vector<Offered> offered;
  for (size_t k = 0; k < impl_->kinds.size(); ++k) {
    const Impl::Kind& kind = impl_->kinds[k];
    const int running = k < impl_->running.size() ? impl_->running[k] : 0;
    for (const TaskExecutor::Offer& offer : kind.offers)
      offered.push_back({offer.offer, offer.description, kind.slots, running});
  }
  return offered;
}

void TaskRunner::Wake() {
  impl_->Post([] {});
}

}  // namespace omni
