#include "actors/task/task_queue.h"

#include <map>
#include <string>

#include <gtest/gtest.h>

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

using std::chrono::seconds;

class TaskQueueTest : public ::testing::Test {
 protected:
  TaskQueue::Waiting Add(const std::string& caller, int32_t priority = 0, const std::string& target = "t") {
    ++made_;
    const TaskId id = absl::StrCat(absl::Hex(made_, absl::kZeroPad16), absl::Hex(made_, absl::kZeroPad16));
    const TaskQueue::Waiting task{"command", target, caller, priority, now_, id};
    queue_.Push(task);
    waiting_[id] = task;
    return task;
  }
  // Whose it was.
  std::string Take(std::vector<TaskOffer> offers = {{"command", "*"}}) {
    const std::optional<TaskId> id = queue_.Next(offers);
    if (!id.has_value()) return "";
    const TaskQueue::Waiting task = waiting_.at(*id);
    EXPECT_TRUE(queue_.Remove(task));
    queue_.AddRunning(task.caller);
    last_ = task.id;
    return task.caller;
  }

  TaskQueue queue_;
  TaskTime now_{std::chrono::hours(1)};
  std::map<TaskId, TaskQueue::Waiting> waiting_;
  TaskId last_;
  uint64_t made_ = 0;
};

TEST_F(TaskQueueTest, CallersTakeTurnsHoweverManyTheyHandIn) {
  for (int n = 0; n < 1000; ++n) (void)Add("many");
  for (int n = 0; n < 10; ++n) (void)Add("few", -100);
  int few = 0;
  for (int n = 0; n < 20; ++n) few += Take() == "few";
  EXPECT_EQ(few, 10);
}

TEST_F(TaskQueueTest, WhoHasFewestRunningIsNext) {
  for (int n = 0; n < 10; ++n) (void)Add("a");
  for (int n = 0; n < 4; ++n) EXPECT_EQ(Take(), "a");
  for (int n = 0; n < 10; ++n) (void)Add("b");
  for (int n = 0; n < 4; ++n) EXPECT_EQ(Take(), "b");
  queue_.RemoveRunning("a");
  EXPECT_EQ(Take(), "a");
}

// A caller with one task at a time came first always: it had no turn to lose.
TEST_F(TaskQueueTest, WhoLeavesAndComesBackStandsBehindThoseWhoWait) {
  for (int n = 0; n < 100; ++n) (void)Add("many");
  int many = 0;
  bool one_waits = false;
  for (int n = 0; n < 100; ++n) {
    if (!one_waits) (void)Add("one");
    const std::string caller = Take();
    one_waits = caller != "one";
    many += caller == "many";
    queue_.RemoveRunning(caller);
  }
  EXPECT_EQ(many, 50);
}

TEST_F(TaskQueueTest, PriorityCountsAmongACallersOwnAndWaitingMakesUpForIt) {
  const TaskId old = Add("a", 0).id;
  now_ += seconds(19);
  const TaskId urgent = Add("a", 2).id;
  (void)Take();
  EXPECT_EQ(last_, urgent);
  now_ += seconds(2);
  (void)Add("a", 2);
  (void)Take();
  EXPECT_EQ(last_, old) << "it has waited for 21 seconds, which is worth more than two steps";
}

TEST_F(TaskQueueTest, OnlyWhatIsOfferedIsGiven) {
  (void)Add("a", 0, "x");
  (void)Add("b", 0, "y");
  EXPECT_EQ(Take({{"model", "*"}}), "");
  EXPECT_EQ(Take({{"command", "z"}, {"command", "y"}}), "b");
  EXPECT_EQ(Take({{"command", "*"}}), "a");
  EXPECT_EQ(queue_.size(), 0u);
}

TEST_F(TaskQueueTest, WhatDoesNotWaitIsNotRemoved) {
  const TaskQueue::Waiting task = Add("a");
  EXPECT_TRUE(queue_.Remove(task));
  EXPECT_FALSE(queue_.Remove(task));
  EXPECT_EQ(Take(), "");
}

}  // namespace
}  // namespace omni
