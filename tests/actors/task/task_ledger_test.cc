// What may be done to a task, and what the ledger does to it by itself.
#include "actors/task/task_ledger.h"

#include <gmock/gmock.h>

#include "tests/actors/task/ledger_fixture.h"

namespace omni {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using testing::Command;
using ::testing::ElementsAre;
using testing::FanOut;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Kind = TaskEventKind;

class TaskLedgerTest : public testing::LedgerTest {};

constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

TEST_F(TaskLedgerTest, ATaskThatNobodyTakesInTimeFails) {
  TaskSpec spec = Command();
  spec.timeouts.queue = seconds(5);
  const TaskId id = Submit(spec);
  Pass(milliseconds(4999));
  EXPECT_EQ(Find(id).status, TaskStatus::kQueued);
  Pass(milliseconds(1));
  EXPECT_EQ(Find(id).status, TaskStatus::kFailed);
  EXPECT_EQ(Find(id).error, kErrorQueueTimeout);
}

TEST_F(TaskLedgerTest, AnAttemptThatTakesTooLongIsTakenAwayAndTriedAgain) {
  TaskSpec spec = Command();
  spec.timeouts.run = seconds(20);
  spec.retry = {.attempts = 2, .first = TaskDuration(0), .never = {}};
  const TaskId id = Submit(spec);
  const TaskAssignment first = Take().value();
  EXPECT_EQ(first.deadline, now_ + seconds(20));
  Pass(seconds(10));
  ASSERT_TRUE(Report(first.token).ok());
  Pass(seconds(10));
  EXPECT_THAT(ended_, ElementsAre(first.token));
  EXPECT_EQ(Report(first.token).status().code(), kPrecondition);
  EXPECT_EQ(Find(id).status, TaskStatus::kQueued);
  EXPECT_EQ(Find(id).error, kErrorTimeout);
  (void)Take().value();
  Pass(seconds(16));
  EXPECT_EQ(Find(id).status, TaskStatus::kQueued) << "lost, which is not a failure: its lease ran out first";
}

TEST_F(TaskLedgerTest, AllAttemptsTogetherHaveATimeToo) {
  TaskSpec spec = Command();
  spec.timeouts.total = minutes(1);
  spec.retry.first = minutes(10);
  spec.retry.most = minutes(10);
  const TaskId id = Submit(spec);
  ASSERT_TRUE(Fail(Take().value().token).ok());
  EXPECT_EQ(Find(id).status, TaskStatus::kScheduled);
  Pass(minutes(1));
  EXPECT_EQ(Find(id).status, TaskStatus::kFailed);
  EXPECT_EQ(Find(id).error, kErrorDeadline);
}

TEST_F(TaskLedgerTest, WaitsGrowByTheFactorUpToTheLongestLessAShareAtRandom) {
  TaskSpec spec = Command();
  spec.retry = {
      .attempts = 7, .first = seconds(4), .most = seconds(20), .factor = 2, .jitter = 0.5, .never = {}};
  std::set<TaskDuration> waits;
  for (int round = 0; round < 20; ++round) {
    const TaskId id = Submit(spec);
    for (const int64_t full : {4, 8, 16, 20, 20, 20}) {
      ASSERT_TRUE(Fail(Take().value().token).ok());
      const TaskDuration wait = Find(id).ready - now_;
      EXPECT_GE(wait, seconds(full) / 2);
      EXPECT_LE(wait, seconds(full));
      waits.insert(wait);
      Pass(wait);
    }
    ASSERT_TRUE(Fail(Take().value().token).ok());
    EXPECT_EQ(Find(id).status, TaskStatus::kFailed);
    EXPECT_EQ(Find(id).failures, 7);
  }
  EXPECT_GT(waits.size(), 60u) << "they are not drawn";
}

TEST_F(TaskLedgerTest, SomeErrorsAreFinal) {
  TaskSpec spec = Command();
  spec.retry.never = {"bad-input"};
  for (const char* error : {kErrorInvalid, "bad-input"}) {
    const TaskId id = Submit(spec);
    ASSERT_TRUE(Fail(Take().value().token, error).ok());
    EXPECT_EQ(Find(id).status, TaskStatus::kFailed);
    EXPECT_EQ(Find(id).attempt, 1);
  }
}

TEST_F(TaskLedgerTest, WhatIsLostWithItsExecutorIsNoFailureButHasAnEnd) {
  TaskSpec spec = Command();
  spec.retry.losses = 3;
  const TaskId id = Submit(spec);
  for (int lost = 1; lost <= 3; ++lost) {
    (void)Take().value();
    Pass(seconds(15));
    EXPECT_EQ(Find(id).losses, lost);
  }
  EXPECT_EQ(Find(id).status, TaskStatus::kFailed);
  EXPECT_EQ(Find(id).error, kErrorLost);
  EXPECT_EQ(Find(id).failures, 0);
}

TEST_F(TaskLedgerTest, OfCancellingAndCompletingTheFirstOneHolds) {
  const TaskId first = Submit(Command());
  TaskAssignment given = Take().value();
  ASSERT_TRUE(Cancel(first).ok());
  EXPECT_THAT(ended_, ElementsAre(given.token));
  EXPECT_TRUE(Report(given.token)->cancel);
  ASSERT_TRUE(Succeed(given.token).ok()) << "it was done before it stopped";
  EXPECT_EQ(Find(first).status, TaskStatus::kSucceeded);
  EXPECT_EQ(Cancel(first).code(), kPrecondition);

  const TaskId second = Submit(Command());
  given = Take().value();
  ASSERT_TRUE(Succeed(given.token).ok());
  EXPECT_EQ(Cancel(second).code(), kPrecondition);
  EXPECT_THAT(Kinds(second), ElementsAre(Kind::kSubmitted, Kind::kStarted, Kind::kOver));

  const TaskId third = Submit(Command());
  given = Take().value();
  ASSERT_TRUE(Cancel(third).ok());
  ASSERT_TRUE(Cancel(third).ok()) << "once more changes nothing";
  ASSERT_TRUE(Fail(given.token, kErrorCancelled).ok());
  EXPECT_EQ(Find(third).status, TaskStatus::kCancelled);
  EXPECT_THAT(Kinds(third),
              ElementsAre(Kind::kSubmitted, Kind::kStarted, Kind::kCancelRequested, Kind::kOver));
}

TEST_F(TaskLedgerTest, AnUndoneTaskGoesBackAndIsNoFailure) {
  const TaskId id = Submit(Command());
  const std::string token = Take().value().token;
  ASSERT_TRUE(Return(token).ok());
  EXPECT_EQ(Return(token).code(), kPrecondition);
  EXPECT_EQ(Find(id).status, TaskStatus::kQueued);
  EXPECT_EQ(Find(id).failures + Find(id).losses, 0);
  EXPECT_EQ(Take().value().state.id, id);
}

TEST_F(TaskLedgerTest, AWorkersNameIsNoClaim) {
  const TaskId id = Submit(Command());
  const std::string old = Take("w").value().token;
  Do([&](TaskStep&) {
    ledger_->EndLeases("node", "w2", now_);
    return 0;
  });
  EXPECT_EQ(Report(old).status().code(), kPrecondition) << "refused at once, before it is settled";
  Settle();
  EXPECT_EQ(Find(id).losses, 1);
  const std::string again = Take("w").value().token;
  EXPECT_NE(again, old);
  EXPECT_EQ(Succeed(old).code(), kPrecondition);
  EXPECT_TRUE(Succeed(again).ok());
}

TEST_F(TaskLedgerTest, WhatAWorkerThatEndedInOrderNeverHeardOfGoesBackAndIsNoLoss) {
  const TaskId id = Submit(Command());
  const std::string unheard = Take("w").value().token;
  const TaskId other = Submit(Command());
  const std::string kept = Take("w2").value().token;
  Do([&](TaskStep&) {
    ledger_->ReturnLeases("node", "w", now_);
    return 0;
  });
  EXPECT_EQ(Report(unheard).status().code(), kPrecondition) << "refused at once, before it is settled";
  Settle();
  EXPECT_EQ(Find(id).status, TaskStatus::kQueued);
  EXPECT_EQ(Find(id).losses + Find(id).failures, 0);
  EXPECT_EQ(Find(other).status, TaskStatus::kRunning);
  EXPECT_TRUE(Succeed(kept).ok());
  EXPECT_EQ(Take().value().state.id, id);
}

TEST_F(TaskLedgerTest, TheLeasesOfAThousandTasksEndInSmallSteps) {
  for (int n = 0; n < 200; ++n) {
    (void)Submit(Command());
    (void)Take("old").value();
  }
  ledger_->EndLeases("node", "new", now_);
  EXPECT_LE(ledger_->next_due().value(), now_);
  Settle();
  EXPECT_EQ(ledger_->counts().by_status[static_cast<size_t>(TaskStatus::kQueued)], 200);
  EXPECT_LE(store_.largest(), kChanges + TaskLedger::kMostChanges);
}

TEST_F(TaskLedgerTest, ALeaseOutlivesTheClocksBeingSetBackWhileTheServerIsDown) {
  const TaskId id = Submit(Command());
  (void)Take().value();
  now_ -= hours(5);
  Load();
  Pass(seconds(14));
  EXPECT_EQ(Find(id).status, TaskStatus::kRunning) << "its executor has time to be heard of";
  Pass(seconds(1));
  EXPECT_EQ(Find(id).status, TaskStatus::kQueued) << "and not five hours of it";
}

TEST_F(TaskLedgerTest, ADelayedTaskIsBegunAfterARestart) {
  TaskSpec spec = Command();
  spec.not_before = now_ + minutes(10);
  const TaskId id = Submit(spec);
  EXPECT_FALSE(Take().has_value());
  Load();
  Pass(minutes(10));
  EXPECT_EQ(Take().value().state.id, id);
}

TEST_F(TaskLedgerTest, ACheckpointGoesWithTheEventsThatItStandsFor) {
  const TaskId id = Submit(Command());
  TaskAssignment given = Take().value();
  TaskReport report{.items = {{Kind::kOutput, "stdout", "a"}}, .checkpoint = "1", .number = 1};
  ASSERT_TRUE(Report(given.token, report).ok());
  ASSERT_TRUE(Report(given.token, report).ok()) << "whose answer was lost";
  report = {.items = {{Kind::kOutput, "stdout", "b"}}, .checkpoint = "2", .number = 2};
  ASSERT_TRUE(Report(given.token, report).ok());
  Pass(seconds(15));
  given = Take().value();
  EXPECT_EQ(given.checkpoint, "12");
  EXPECT_EQ(given.points, 2);
  EXPECT_THAT(Kinds(id), ElementsAre(Kind::kSubmitted, Kind::kStarted, Kind::kOutput, Kind::kOutput,
                                     Kind::kAttemptFailed, Kind::kStarted));
}

TEST_F(TaskLedgerTest, ReportsHaveLimits) {
  limits_.report_events = 2;
  limits_.event_bytes = 10;
  limits_.report_bytes = 25;
  limits_.result_bytes = 5;
  limits_.log_bytes = 400;
  Load();
  (void)Submit(Command());
  const std::string token = Take().value().token;
  const auto code = [&](const TaskReport& report) { return Report(token, report).status().code(); };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({.items = {{Kind::kOutput, "", "1"}, {Kind::kOutput, "", "2"}, {Kind::kOutput, "", "3"}}}),
            kInvalid);
  EXPECT_EQ(code({.items = {{Kind::kOutput, "", std::string(11, 'a')}}}), kInvalid);
  EXPECT_EQ(code({.items = {{Kind::kOutput, std::string(257, 'a'), ""}}}), kInvalid);
  EXPECT_EQ(code({.checkpoint = std::string(26, 'a')}), kInvalid);
  EXPECT_EQ(code({.items = {{Kind::kOver, "", ""}}}), kInvalid);
  EXPECT_EQ(Do([&](TaskStep& step) { return ledger_->Succeed(token, {}, "123456", now_, step); }).code(),
            kInvalid);
  absl::StatusCode last = absl::StatusCode::kOk;
  for (int n = 0; n < 20 && last == absl::StatusCode::kOk; ++n)
    last = code({.items = {{Kind::kOutput, "", std::string(10, 'a')}}});
  EXPECT_EQ(last, absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(Succeed(token).code() == kInvalid) << "a result of six bytes";
  EXPECT_TRUE(Fail(token).ok()) << "it can still end";
}

TEST_F(TaskLedgerTest, TooManyThatAreNotOverAreRefused) {
  limits_.live = 6;
  limits_.live_per_caller = 4;
  Load();
  (void)Submit(FanOut(2));
  (void)Submit(Command());
  EXPECT_EQ(TrySubmit(Command()).status().code(), absl::StatusCode::kResourceExhausted);
  (void)Submit(Command(), "", "bert");
  EXPECT_EQ(TrySubmit(FanOut(1), "", "carl").status().code(), absl::StatusCode::kResourceExhausted);
  (void)Submit(Command(), "", "carl");
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  EXPECT_TRUE(TrySubmit(Command(), "", "carl").ok());
}

TEST_F(TaskLedgerTest, ARetriedTaskGoesOnInItsLogAndSucceedsOnce) {
  TaskSpec spec = Command();
  spec.retry.attempts = 1;
  const TaskId id = Submit(spec, "key");
  ASSERT_TRUE(Fail(Take().value().token).ok());
  ASSERT_TRUE(Retry(id).ok());
  EXPECT_EQ(Retry(id).code(), kPrecondition);
  EXPECT_TRUE(TrySubmit(spec, "key")->again);
  const TaskAssignment given = Take().value();
  EXPECT_EQ(given.state.attempt, 2);
  ASSERT_TRUE(Succeed(given.token).ok());
  EXPECT_EQ(Retry(id).code(), kPrecondition);
  EXPECT_THAT(Kinds(id), ElementsAre(Kind::kSubmitted, Kind::kStarted, Kind::kOver, Kind::kRetried,
                                     Kind::kStarted, Kind::kOver));
}

TEST_F(TaskLedgerTest, WhatWasPurgedLeavesNothingAndGivesItsKeyBack) {
  const TaskId id = Submit(FanOut(40), "key");
  for (int n = 0; n < 40; ++n) {
    const std::string token = Take().value().token;
    for (int number = 1; number < 4; ++number)
      ASSERT_TRUE(
          Report(token, {.items = {{Kind::kOutput, "", "a"}}, .checkpoint = "b", .number = number}).ok());
    ASSERT_TRUE(Succeed(token).ok());
  }
  EXPECT_EQ(Find(id).status, TaskStatus::kSucceeded);
  const std::vector<TaskId> children = ChildrenOf(id);
  ASSERT_TRUE(Purge(id).ok());
  EXPECT_EQ(Purge(id).code(), absl::StatusCode::kNotFound);
  EXPECT_NE(Submit(Command(), "key"), id);
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  for (const TaskId& child : children) ASSERT_TRUE(Purge(child).ok());
  for (const auto& [key, value] : store_.all())
    EXPECT_THAT(key, ::testing::Not(HasSubstr(id))) << "and nothing of its children:";
  Pass(hours(24 * 7) + minutes(1));
  EXPECT_THAT(store_.all(), IsEmpty());
  EXPECT_LE(store_.largest(), kChanges + TaskLedger::kMostChanges);
}

TEST_F(TaskLedgerTest, ATaskIsKeptForAsLongAsItAskedFor) {
  TaskSpec spec = Command();
  spec.retain = minutes(30);
  (void)Submit(spec);
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  Pass(minutes(29));
  EXPECT_THAT(store_.all(), ::testing::Not(IsEmpty()));
  Pass(minutes(3));
  EXPECT_THAT(store_.all(), IsEmpty());
}

TEST_F(TaskLedgerTest, WorkThatIsGoneEndsItsTaskAndNotTheQueue) {
  const TaskId broken = Submit(Command());
  ASSERT_TRUE(store_.Write({{WorkKey(broken), std::nullopt}}).ok());
  Pass(milliseconds(1));
  const TaskId whole = Submit(Command());
  EXPECT_FALSE(Take().has_value());
  EXPECT_EQ(Find(broken).status, TaskStatus::kFailed);
  EXPECT_EQ(Take().value().state.id, whole);
}

TEST_F(TaskLedgerTest, ASchedulesTimesAreHandedInOnceEachAndMissedOnesAsAsked) {
  for (const bool every : {false, true}) {
    TaskSchedule schedule{.caller = "anna",
                          .name = std::string(220, every ? 'e' : 'o'),
                          .cron = "*/10 * * * *",
                          .zone = "UTC",
                          .every_missed = every,
                          .last_task = {},
                          .spec = Command()};
    ASSERT_TRUE(Do([&](TaskStep& step) { return ledger_->PutSchedule(schedule, now_, step); }).ok());
    const auto live = [&] { return ledger_->live(); };
    const int64_t before = live();
    Pass(minutes(10));
    EXPECT_EQ(live(), before + 1);
    Pass(minutes(10));
    EXPECT_EQ(live(), before + 2);
    Load();
    EXPECT_EQ(live(), before + 2);
    now_ += hours(1);
    Load();
    EXPECT_EQ(live(), before + (every ? 8 : 3));
    ASSERT_TRUE(
        Do([&](TaskStep& step) { return ledger_->DeleteSchedule("anna", schedule.name, step); }).ok());
    Pass(hours(1));
    EXPECT_EQ(live(), before + (every ? 8 : 3));
  }
}

TEST_F(TaskLedgerTest, SchedulesThatArePausedCountToo) {
  limits_.schedules = 3;
  Load();
  const auto put = [&](const std::string& name, bool paused) {
    const TaskSchedule schedule{.caller = "anna",
                                .name = name,
                                .cron = "* * * * *",
                                .zone = "UTC",
                                .paused = paused,
                                .last_task = {},
                                .spec = Command()};
    return Do([&](TaskStep& step) { return ledger_->PutSchedule(schedule, now_, step); }).code();
  };
  const auto full = absl::StatusCode::kResourceExhausted;
  const auto ok = absl::StatusCode::kOk;
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(put(name, true), ok);
  EXPECT_EQ(put("d", true), full);
  EXPECT_EQ(put("d", false), full);
  EXPECT_EQ(put("a", true), ok) << "in its own place";
  Load();
  EXPECT_EQ(put("d", true), full);
  ASSERT_TRUE(Do([&](TaskStep& step) { return ledger_->DeleteSchedule("anna", "b", step); }).ok());
  EXPECT_EQ(put("d", false), ok);
  EXPECT_EQ(put("e", false), full);
  Pass(minutes(1));
  EXPECT_EQ(ledger_->live(), 1) << "those that are paused are not handed in";
}

TEST_F(TaskLedgerTest, AMinutelyScheduleIsCaughtUpWithAfterYearsAtOnce) {
  TaskSchedule schedule{
      .caller = "anna", .name = "n", .cron = "* * * * *", .zone = "UTC", .last_task = {}, .spec = Command()};
  ASSERT_TRUE(Do([&](TaskStep& step) { return ledger_->PutSchedule(schedule, now_, step); }).ok());
  Pass(hours(24 * 365 * 3));
  EXPECT_EQ(ledger_->live(), 1);
}

}  // namespace
}  // namespace omni
