// Fan-outs: which of their children decide, and what becomes of the others.
#include <gmock/gmock.h>

#include "tests/actors/task/ledger_fixture.h"

namespace omni {
namespace {

using std::chrono::seconds;
using testing::Command;
using testing::FanOut;
using Kind = TaskEventKind;

class TaskChildrenTest : public testing::LedgerTest {
 protected:
  TaskSpec Once(TaskSpec spec) {
    for (TaskSpec& child : spec.children) child.retry.attempts = 1;
    return spec;
  }
  int64_t With(TaskStatus status) { return ledger_->counts().by_status[static_cast<size_t>(status)]; }
};

TEST_F(TaskChildrenTest, OfAllTheLastOneDecides) {
  const TaskId id = Submit(Once(FanOut(3)));
  ASSERT_TRUE(Fail(Take().value().token).ok());
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  EXPECT_EQ(Find(id).status, TaskStatus::kWaiting);
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  EXPECT_EQ(Find(id).status, TaskStatus::kFailed);
  EXPECT_EQ(Find(id).error, kErrorChildren);
  EXPECT_EQ(Find(id).children_succeeded, 2);
}

TEST_F(TaskChildrenTest, OfAllFastTheFirstThatFailsEndsTheOthers) {
  const TaskId id = Submit(Once(FanOut(30, TaskGather::kAllFast)));
  const TaskAssignment running = Take().value();
  ASSERT_TRUE(Fail(Take().value().token).ok());
  EXPECT_EQ(Find(id).status, TaskStatus::kFailed);
  EXPECT_EQ(ledger_->live(), 1) << "the one that runs, until its executor stops";
  EXPECT_THAT(ended_, ::testing::ElementsAre(running.token));
  ASSERT_TRUE(Fail(running.token, kErrorCancelled).ok());
  EXPECT_EQ(Find(running.state.id).status, TaskStatus::kCancelled);
  EXPECT_EQ(ledger_->live(), 0);
}

TEST_F(TaskChildrenTest, OfAnyTheFirstThatSucceedsEndsTheOthers) {
  const TaskId id = Submit(Once(FanOut(30, TaskGather::kAny)));
  ASSERT_TRUE(Fail(Take().value().token).ok());
  EXPECT_EQ(Find(id).status, TaskStatus::kWaiting);
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  EXPECT_EQ(Find(id).status, TaskStatus::kSucceeded);
  EXPECT_EQ(ledger_->live(), 0);
  const TaskId none = Submit(Once(FanOut(2, TaskGather::kAny)));
  ASSERT_TRUE(Fail(Take().value().token).ok());
  ASSERT_TRUE(Fail(Take().value().token).ok());
  EXPECT_EQ(Find(none).status, TaskStatus::kFailed);
}

// Several hundred at once once never came to an end.
TEST_F(TaskChildrenTest, ACancelledFanOutCancelsItsChildrenButThoseThatOutliveIt) {
  TaskSpec spec = FanOut(800);
  spec.children[5].outlives_parent = true;
  const TaskId id = Submit(spec);
  ASSERT_TRUE(Cancel(id).ok());
  EXPECT_EQ(Find(id).status, TaskStatus::kCancelled);
  TaskStep step;
  const absl::StatusOr<bool> more = ledger_->Settle(now_, 5000, step);
  ASSERT_TRUE(more.ok());
  EXPECT_TRUE(*more);
  ASSERT_TRUE(store_.Write(step.writes).ok());
  Load();  // in the middle of it
  EXPECT_EQ(ledger_->live(), 1);
  const TaskAssignment left = Take().value();
  EXPECT_EQ(left.state.index, 5);
  ASSERT_TRUE(Succeed(left.token).ok());
  EXPECT_EQ(Find(id).status, TaskStatus::kCancelled);
}

TEST_F(TaskChildrenTest, AReturnToAFanOutKeepsWhatSucceededAndMultipliesNothing) {
  const TaskId id = Submit(Once(FanOut(4)));
  for (int n = 0; n < 2; ++n) ASSERT_TRUE(Succeed(Take().value().token).ok());
  for (int n = 0; n < 2; ++n) ASSERT_TRUE(Fail(Take().value().token).ok());
  const std::vector<TaskId> children = ChildrenOf(id);
  EXPECT_EQ(Find(id).status, TaskStatus::kFailed);
  ASSERT_TRUE(Retry(id).ok());
  Settle();
  Load();
  EXPECT_EQ(ChildrenOf(id), children);
  EXPECT_EQ(With(TaskStatus::kQueued), 2);
  for (int n = 0; n < 2; ++n) ASSERT_TRUE(Succeed(Take().value().token).ok());
  EXPECT_FALSE(Take().has_value());
  EXPECT_EQ(Find(id).status, TaskStatus::kSucceeded);
  EXPECT_EQ(Find(id).children_over, 4);
}

TEST_F(TaskChildrenTest, AChildThatIsRetriedIsWaitedForAgain) {
  const TaskId id = Submit(Once(FanOut(2)));
  const TaskAssignment failed = Take().value();
  ASSERT_TRUE(Fail(failed.token).ok());
  ASSERT_TRUE(Retry(failed.state.id).ok());
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  EXPECT_EQ(Find(id).status, TaskStatus::kWaiting);
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  EXPECT_EQ(Find(id).status, TaskStatus::kSucceeded);
}

// A parent that is retried comes to its children one after another; one that still runs may end before.
TEST_F(TaskChildrenTest, AChildThatEndsBeforeItsRetriedParentComesToItCountsOnce) {
  TaskSpec spec = FanOut(12, TaskGather::kAll);
  for (TaskSpec& child : spec.children) child.outlives_parent = true;
  const TaskId id = Submit(spec);
  std::vector<TaskAssignment> given;
  for (int n = 0; n < 12; ++n) given.push_back(Take().value());
  std::sort(given.begin(), given.end(),
            [](const auto& a, const auto& b) { return a.state.index < b.state.index; });
  ASSERT_TRUE(Cancel(id).ok());
  Settle();
  ASSERT_TRUE(Retry(id).ok());
  ASSERT_TRUE(Do([&](TaskStep& step) { return ledger_->Succeed(given[11].token, {}, "", now_, step); }).ok());
  Settle();
  EXPECT_EQ(Find(id).children_over, 1);
  for (int n = 0; n < 11; ++n) {
    EXPECT_EQ(Find(id).status, TaskStatus::kWaiting) << n;
    ASSERT_TRUE(Succeed(given[static_cast<size_t>(n)].token).ok());
  }
  EXPECT_EQ(Find(id).status, TaskStatus::kSucceeded);
}

TEST_F(TaskChildrenTest, AChildThatWasToldToStopIsBegunAnewWithItsRetriedParent) {
  const TaskId id = Submit(FanOut(2));
  const TaskAssignment running = Take().value();
  ASSERT_TRUE(Cancel(id).ok());
  Settle();
  EXPECT_TRUE(Find(running.state.id).cancel_requested);
  ASSERT_TRUE(Retry(id).ok());
  Settle();
  EXPECT_EQ(Succeed(running.token).code(), absl::StatusCode::kFailedPrecondition);
  for (int n = 0; n < 2; ++n) ASSERT_TRUE(Succeed(Take().value().token).ok());
  EXPECT_EQ(Find(id).status, TaskStatus::kSucceeded);
  EXPECT_EQ(Find(id).retries, 1);
}

// They were made later than it was accepted, and others had their places by then.
TEST_F(TaskChildrenTest, ChildrenThatAreStillToBeMadeHaveTheirPlaces) {
  limits_.live = 40;
  limits_.live_per_caller = 30;
  Load();
  const auto submit = [&](const TaskSpec& spec, const std::string& caller) {
    return TrySubmit(spec, "", caller).status().code();  // no child is made before Settle
  };
  TaskSpec later = FanOut(19);
  later.not_before = now_ + std::chrono::hours(1);
  ASSERT_EQ(submit(later, "anna"), absl::StatusCode::kOk);
  ASSERT_EQ(submit(FanOut(9), "anna"), absl::StatusCode::kOk);
  EXPECT_EQ(submit(Command(), "anna"), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(submit(FanOut(10), "bert"), absl::StatusCode::kResourceExhausted);
  ASSERT_EQ(submit(FanOut(9), "bert"), absl::StatusCode::kOk);
  EXPECT_EQ(submit(Command(), "carl"), absl::StatusCode::kResourceExhausted);
  Load();
  EXPECT_EQ(submit(Command(), "carl"), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ledger_->live(), 1 + 10 + 10);
  Pass(std::chrono::hours(1));
  EXPECT_EQ(ledger_->live(), 40);
  EXPECT_EQ(submit(Command(), "carl"), absl::StatusCode::kResourceExhausted);
}

TEST_F(TaskChildrenTest, WhatIsHandedInAgainNeedsPlacesToo) {
  limits_.live = 10;
  Load();
  const TaskId id = Submit(Once(FanOut(5, TaskGather::kAllFast)));
  const TaskId single = Submit(Command());
  ASSERT_TRUE(Cancel(single).ok());
  ASSERT_TRUE(Cancel(id).ok());
  Settle();
  ASSERT_EQ(ledger_->live(), 0);
  for (int n = 0; n < 5; ++n) (void)Submit(Command());
  EXPECT_EQ(Retry(id).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Find(id).status, TaskStatus::kCancelled);
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  ASSERT_TRUE(Retry(id).ok());  // none of its children is made again before Settle
  EXPECT_EQ(Retry(single).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(TrySubmit(Command()).status().code(), absl::StatusCode::kResourceExhausted);
  Settle();
  EXPECT_EQ(ledger_->live(), 10);
}

}  // namespace
}  // namespace omni
