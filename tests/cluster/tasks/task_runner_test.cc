// Leases are kept, what is told is told once, and an attempt whose lease is over stops.
#include "cluster/tasks/task_runner.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

namespace omni {
namespace {

using Ms = std::chrono::milliseconds;
using Stop = TaskAttempt::Stop;

constexpr Ms kLease{15'000};

struct Call {
  std::string kind, token, text, error;  // text: of the report, or the result
  int64_t number = 0;
  std::function<void(absl::Status, bool cancel)> answer;
};

// Lends what a test hands in; its answers are the test's.
class FakeLender final : public TaskLender {
 public:
  void Take(std::string, std::string, std::vector<TaskOffer> offers,
            Done<std::optional<TaskAssignment>> done) override {
    std::optional<TaskAssignment> given;
    {
      const std::lock_guard lock(mutex_);
      ++takes_;
      for (auto at = waiting_.begin(); at != waiting_.end() && !given.has_value(); ++at) {
        for (const TaskOffer& offer : offers) {
          if (offer.executor != at->state.executor) continue;
          given = *at;
          waiting_.erase(at);
          break;
        }
        if (given.has_value()) break;
      }
    }
    news_.notify_all();
    done(std::move(given));
  }
  void Report(std::string token, TaskReport report, Done<TaskLedger::Told> done) override {
    Add({"report", token, Text(report), "", report.number, [done](absl::Status s, bool cancel) {
           done(s.ok() ? absl::StatusOr<TaskLedger::Told>(TaskLedger::Told{{}, cancel}) : s);
         }});
  }
  void Succeed(std::string token, TaskReport last, std::string result, Told told) override {
    Add({"succeed", token, Text(last) + result, "", last.number, [told](absl::Status s, bool) { told(s); }});
  }
  void Fail(std::string token, TaskReport last, std::string error, std::string message, Told told) override {
    Add({"fail", token, Text(last) + message, error, last.number, [told](absl::Status s, bool) { told(s); }});
  }
  void Return(std::string token, Told told) override {
    Add({"return", token, "", "", 0, [told](absl::Status s, bool) { told(s); }});
  }
  void AddListener(TaskListener* listener) override {
    const std::lock_guard lock(mutex_);
    listeners_.insert(listener);
  }
  void RemoveListener(TaskListener* listener) override {
    const std::lock_guard lock(mutex_);
    listeners_.erase(listener);
  }

  void HandIn(const std::string& name, TaskDuration run = {}, const std::string& executor = "work") {
    TaskAssignment task;
    task.state.id = name;
    task.state.executor = executor;
    task.state.updated = TaskTime(Ms(77'000'000));  // of a clock that is not the runner's
    task.token = "token of " + name;
    task.lease = kLease;
    if (run.count() > 0) task.deadline = task.state.updated + run;
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(task));
    for (TaskListener* listener : listeners_) listener->OnQueued();
  }
  void TellEnded(const std::string& token) {
    const std::lock_guard lock(mutex_);
    for (TaskListener* listener : listeners_) listener->OnEnded({token});
  }

  // The next call that was made, other than to take.
  Call Next() {
    std::unique_lock lock(mutex_);
    if (!news_.wait_for(lock, std::chrono::minutes(2), [&] { return !calls_.empty(); })) {
      ADD_FAILURE() << "no call was made";
      return {"none", "", "", "", 0, [](absl::Status, bool) {}};
    }
    Call call = std::move(calls_.front());
    calls_.pop_front();
    return call;
  }
  // Whether there is one, or comes soon.
  bool Comes() {
    std::unique_lock lock(mutex_);
    return news_.wait_for(lock, Ms(200), [&] { return !calls_.empty(); });
  }
  bool none() {
    const std::lock_guard lock(mutex_);
    return calls_.empty();
  }
  int takes() {
    const std::lock_guard lock(mutex_);
    return takes_;
  }

 private:
  static std::string Text(const TaskReport& report) {
    std::string text;
    for (const TaskReport::Item& item : report.items) text += item.data;
    return text + (report.checkpoint.empty() ? "" : "#" + report.checkpoint);
  }
  void Add(Call call) {
    {
      const std::lock_guard lock(mutex_);
      calls_.push_back(std::move(call));
    }
    news_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable news_;
  std::deque<TaskAssignment> waiting_;
  std::deque<Call> calls_;
  std::set<TaskListener*> listeners_;
  int takes_ = 0;
};

class FakeExecutor final : public TaskExecutor {
 public:
  explicit FakeExecutor(int slots, std::function<TaskOutcome(TaskAttempt&)> run, std::string name = "work")
      : slots_(slots), run_(std::move(run)), name_(std::move(name)) {}
  std::vector<Offer> offers() const override { return {{{name_, "*"}, "for tests"}}; }
  int slots() const override { return slots_; }
  TaskOutcome Run(TaskAttempt& attempt) override { return run_(attempt); }

 private:
  const int slots_;
  const std::function<TaskOutcome(TaskAttempt&)> run_;
  const std::string name_;
};

// Waits for the attempt's being stopped.
Stop WaitForStop(TaskAttempt& attempt) {
  std::promise<void> stopped;
  attempt.SetOnStop([&] { stopped.set_value(); });
  stopped.get_future().wait();
  attempt.SetOnStop(nullptr);
  return attempt.stop();
}
const char* Name(Stop stop) {
  switch (stop) {
    case Stop::kNo:
      return "no";
    case Stop::kCancelled:
      return "cancelled";
    case Stop::kLost:
      return "lost";
    case Stop::kReturn:
      return "return";
    case Stop::kTimeout:
      return "timeout";
  }
  return "";
}

class TaskRunnerTest : public ::testing::Test {
 protected:
  void Start(int slots, std::function<TaskOutcome(TaskAttempt&)> run) {
    executor_ = std::make_unique<FakeExecutor>(slots, std::move(run));
    TaskRunnerOptions options;
    options.node = "n1";
    options.now = [this] { return now_.load(); };
    runner_ = TaskRunner::Start(lender_, {executor_.get()}, options).value();
  }
  void PassTime(Ms time) {
    now_ = now_.load() + time;
    runner_->Wake();
  }
  // The next call, for which the clock has to move, in such steps.
  Call NextLater(Ms step) {
    for (int i = 0; i < 50 && !lender_.Comes(); ++i) PassTime(step);
    return lender_.Next();
  }
  void Answer(const Call& call, absl::Status status = absl::OkStatus(), bool cancel = false) {
    call.answer(std::move(status), cancel);
  }
  void Settle(const std::string& kind) {
    const Call call = lender_.Next();
    EXPECT_EQ(call.kind, kind) << call.text;
    Answer(call);
  }
  // Until the runner has done all that was due.
  void WaitForRunning(int running) {
    while (runner_->offered()[0].running != running) std::this_thread::yield();
  }

  std::atomic<Ms> now_{Ms(5000)};
  FakeLender lender_;
  std::unique_ptr<FakeExecutor> executor_;
  std::unique_ptr<TaskRunner> runner_;
};

TEST_F(TaskRunnerTest, WhatIsToldIsReportedTogetherAfterAWhileAndTheRestWithTheEnd) {
  std::promise<void> told, go;
  Start(1, [&](TaskAttempt& attempt) {
    attempt.Output("out", "a");
    attempt.Output("out", "b");
    told.set_value();
    go.get_future().wait();
    attempt.Output("out", "c");
    return TaskOutcome::Succeeded("42");
  });
  lender_.HandIn("t");
  told.get_future().wait();
  WaitForRunning(1);
  EXPECT_TRUE(lender_.none());
  const Call report = NextLater(Ms(20));
  EXPECT_EQ(report.kind + report.token + report.text, "reporttoken of tab");
  EXPECT_EQ(report.number, 1);
  Answer(report);
  go.set_value();
  const Call end = lender_.Next();
  EXPECT_EQ(end.kind + end.text, "succeedc42");
  EXPECT_EQ(end.number, 2);
  Answer(end);
  WaitForRunning(0);
}

TEST_F(TaskRunnerTest, ACallWhoseAnswerWasLostIsMadeAgainUnderItsNumber) {
  Start(1, [&](TaskAttempt& attempt) {
    attempt.Output("out", std::string(200 << 10, 'x'));
    return TaskOutcome::Failed("exit", "1");
  });
  lender_.HandIn("t");
  Call call = lender_.Next();
  const std::string kind = call.kind;  // a report, if it was seen before the end was
  for (const absl::Status& fate :
       {absl::UnavailableError("the store failed"), absl::ResourceExhaustedError("the disk is full")}) {
    EXPECT_EQ(call.number, 1);
    Answer(call, fate);
    call = NextLater(Ms(50));
    EXPECT_EQ(call.kind, kind);
  }
  EXPECT_EQ(call.number, 1);
  Answer(call);
  if (kind == "report") {
    call = lender_.Next();
    EXPECT_EQ(call.number, 2);
    Answer(call);
  }
  EXPECT_EQ(call.kind + call.error, "failexit");
}

TEST_F(TaskRunnerTest, ALeaseIsKeptByAReportEveryThirdOfIt) {
  std::promise<Stop> stopped;
  Start(1, [&](TaskAttempt& attempt) {
    stopped.set_value(WaitForStop(attempt));
    return StoppedOutcome(attempt.stop());
  });
  lender_.HandIn("t");
  WaitForRunning(1);
  for (int i = 1; i <= 10; ++i) {
    PassTime(kLease / 3);
    const Call beat = lender_.Next();
    EXPECT_EQ(beat.kind + beat.text, "report");
    EXPECT_EQ(beat.number, i);
    Answer(beat, absl::OkStatus(), i == 10);
  }
  EXPECT_STREQ(Name(stopped.get_future().get()), "cancelled");
  const Call end = lender_.Next();
  EXPECT_EQ(end.kind + end.error, "failcancelled");
  Answer(end);
}

TEST_F(TaskRunnerTest, OneThatIsSaidToHaveEndedAsksAtOnce) {
  for (const bool cancelled : {true, false}) {
    std::promise<Stop> stopped;
    Start(1, [&](TaskAttempt& attempt) {
      stopped.set_value(WaitForStop(attempt));
      return StoppedOutcome(attempt.stop());
    });
    lender_.HandIn("t");
    WaitForRunning(1);
    lender_.TellEnded("token of another");
    lender_.TellEnded("token of t");
    const Call asked = lender_.Next();
    EXPECT_EQ(asked.kind, "report");
    Answer(asked, cancelled ? absl::OkStatus() : absl::FailedPreconditionError("the lease is over"),
           cancelled);
    EXPECT_STREQ(Name(stopped.get_future().get()), cancelled ? "cancelled" : "lost");
    if (cancelled) Settle("fail");
    WaitForRunning(0);
    EXPECT_TRUE(lender_.none()) << "of one that is lost nothing is told";
    runner_ = nullptr;
  }
}

TEST_F(TaskRunnerTest, ALeaseThatNobodyRenewsIsOverByTheRunnersOwnClock) {
  std::promise<Stop> stopped;
  Start(1, [&](TaskAttempt& attempt) {
    stopped.set_value(WaitForStop(attempt));
    attempt.Output("out", std::string(50 << 20, 'x'));  // goes nowhere, and waits for nobody
    return TaskOutcome::Succeeded("late");
  });
  lender_.HandIn("t");
  WaitForRunning(1);
  PassTime(kLease / 3);
  const Call beat = lender_.Next();
  PassTime(kLease);
  EXPECT_STREQ(Name(stopped.get_future().get()), "lost");
  WaitForRunning(0);
  Answer(beat);  // too late
  EXPECT_TRUE(lender_.none());
}

TEST_F(TaskRunnerTest, AnAttemptMayTakeAsLongAsItMayByWhoeversClock) {
  std::promise<Stop> stopped;
  Start(1, [&](TaskAttempt& attempt) {
    stopped.set_value(WaitForStop(attempt));
    return StoppedOutcome(attempt.stop());
  });
  lender_.HandIn("t", Ms(3000));
  WaitForRunning(1);
  PassTime(Ms(3000));
  EXPECT_STREQ(Name(stopped.get_future().get()), "timeout");
  const Call end = lender_.Next();
  EXPECT_EQ(end.kind + end.error, "failtimeout");
  Answer(end);
}

TEST_F(TaskRunnerTest, WhatAnExecutorThrowsIsAFailure) {
  Start(1, [&](TaskAttempt& attempt) -> TaskOutcome {
    if (attempt.task().state.id == "a") throw std::runtime_error("no more memory");
    throw 7;
  });
  for (const char* name : {"a", "b"}) {
    lender_.HandIn(name);
    const Call end = lender_.Next();
    EXPECT_EQ(end.kind + end.error, "failexception");
    EXPECT_EQ(end.text,
              std::string(name) == "a" ? "no more memory" : "the executor threw what is no exception");
    Answer(end);
  }
}

TEST_F(TaskRunnerTest, WhoeverTellsTooMuchWaitsUntilItLasts) {
  std::atomic<size_t> told = 0;
  constexpr size_t kAll = 8 << 20, kPiece = 64 << 10;
  Start(1, [&](TaskAttempt& attempt) {
    for (; told < kAll; told += kPiece) attempt.Output("out", std::string(kPiece, 'x'));
    return TaskOutcome::Succeeded("");
  });
  lender_.HandIn("t");
  size_t lasting = 0;
  while (true) {
    const Call call = lender_.Next();
    EXPECT_LE(told.load(), lasting + (1 << 20) + kPiece);
    lasting += call.text.size();
    Answer(call);
    if (call.kind == "succeed") break;
  }
  EXPECT_EQ(lasting, kAll);
}

TEST_F(TaskRunnerTest, AResultOrALogThatIsRefusedIsAFailureAndNotTriedAgain) {
  Start(1, [&](TaskAttempt& attempt) {
    if (attempt.task().state.id == "log") {
      attempt.Output("out", std::string(200 << 10, 'x'));
      WaitForStop(attempt);
      return StoppedOutcome(attempt.stop());
    }
    return TaskOutcome::Succeeded("too long");
  });
  lender_.HandIn("result");
  Answer(lender_.Next(), absl::InvalidArgumentError("a result has at most"));
  Call end = lender_.Next();
  EXPECT_EQ(end.kind + end.error + end.text, "failinvalida result has at most");
  Answer(end);
  lender_.HandIn("log");
  Answer(lender_.Next(), absl::OutOfRangeError("its events have"));
  end = lender_.Next();
  EXPECT_EQ(end.kind + end.error + end.text, "failinvalidits events have");
  Answer(end);
}

TEST_F(TaskRunnerTest, AsManyRunAsThereAreSlotsAndAFreeOneIsFilledAtOnce) {
  int running = 0, most = 0;
  std::mutex mutex;
  std::condition_variable go;
  int let = 0;
  Start(2, [&](TaskAttempt&) {
    std::unique_lock lock(mutex);
    most = std::max(most, ++running);
    go.wait(lock, [&] { return let > 0; });
    --let;
    --running;
    return TaskOutcome::Succeeded("");
  });
  for (int i = 0; i < 5; ++i) lender_.HandIn(absl::StrCat(i));
  WaitForRunning(2);
  const auto begun = [&] {
    const std::lock_guard lock(mutex);
    return running;
  };
  while (begun() < 2) std::this_thread::yield();  // the runner counts them a moment earlier
  const int asked = lender_.takes();
  for (int i = 0; i < 5; ++i) {
    {
      const std::lock_guard lock(mutex);
      ++let;
    }
    go.notify_all();
    Settle("succeed");
  }
  WaitForRunning(0);
  const std::lock_guard lock(mutex);
  EXPECT_EQ(most, 2);
  EXPECT_LE(lender_.takes(), asked + 14) << "nobody asks again and again";
}

TEST_F(TaskRunnerTest, NobodyAsksUnlessSomethingIsQueuedOrAWhileHasPassed) {
  Start(1, [](TaskAttempt&) { return TaskOutcome::Succeeded(""); });
  while (lender_.takes() < 1) std::this_thread::yield();
  for (int i = 0; i < 100; ++i) PassTime(Ms(100));
  EXPECT_EQ(lender_.takes(), 1);
  PassTime(std::chrono::seconds(30));
  while (lender_.takes() < 2) std::this_thread::yield();
}

TEST_F(TaskRunnerTest, WhoeverIsDrainedGivesBackWhatIsNotDone) {
  Start(3, [&](TaskAttempt& attempt) {
    if (attempt.task().state.id != "done") attempt.Output("out", "half");
    const Stop stop = WaitForStop(attempt);
    return attempt.task().state.id == "done" ? TaskOutcome::Succeeded("") : StoppedOutcome(stop);
  });
  lender_.HandIn("done");
  lender_.HandIn("a");
  lender_.HandIn("b");
  WaitForRunning(3);
  auto drained = std::async(std::launch::async, [&] { runner_->Drain(); });
  std::multiset<std::string> ends;
  std::string told;
  while (ends.size() < 3) {
    const Call call = lender_.Next();
    if (call.kind != "report") ends.insert(call.kind + " " + call.token);
    told += call.text;
    Answer(call);
  }
  drained.wait();
  EXPECT_EQ(ends,
            (std::multiset<std::string>{"return token of a", "return token of b", "succeed token of done"}));
  EXPECT_EQ(told, "halfhalf");
  const int takes = lender_.takes();
  lender_.HandIn("later");
  EXPECT_EQ(lender_.takes(), takes);
}

TEST_F(TaskRunnerTest, AnEndThatNobodyHearsOfIsToldUntilTheLeaseIsOver) {
  Start(1, [](TaskAttempt&) { return TaskOutcome::Succeeded("42"); });
  lender_.HandIn("t");
  int told = 0;
  for (int i = 0; i < 1000 && (told == 0 || runner_->offered()[0].running > 0); ++i) {
    if (lender_.Comes()) {
      const Call call = lender_.Next();
      EXPECT_EQ(call.kind, "succeed");
      Answer(call, absl::UnavailableError("nobody is there"));
      ++told;
    }
    PassTime(Ms(1000));
  }
  WaitForRunning(0);
  EXPECT_GE(told, 2);
}

}  // namespace
}  // namespace omni
