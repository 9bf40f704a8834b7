// Who is told of a task's events: records that last, go with their task, and are bounded.
#include <gmock/gmock.h>

#include "tests/actors/task/ledger_fixture.h"

namespace omni {
namespace {

using testing::Command;
using ::testing::HasSubstr;

class TaskPushesTest : public testing::LedgerTest {
 protected:
  absl::StatusOr<TaskPush> Put(const TaskId& task, const std::string& name, int64_t told = 0,
                               const std::string& url = "https://a.example/x", const TaskClient& by = kAnna) {
    TaskPush push;
    push.task = task;
    push.name = name;
    push.url = url;
    push.told = told;
    return Do([&](TaskStep& step) { return ledger_->PutPush(by, push, now_, step); });
  }
  absl::Status Delete(const TaskId& task, const std::string& name, const TaskClient& by = kAnna) {
    return Do([&](TaskStep& step) { return ledger_->DeletePush(by, task, name, step); });
  }
  absl::Status Told(const TaskId& task, const std::string& name, int64_t told,
                    const std::string& url = "https://a.example/x") {
    return Do([&](TaskStep& step) { return ledger_->Pushed(task, name, url, told, step); });
  }
  size_t Count(const TaskId& task) {
    const auto pushes = reader_.Pushes(kAnna, task);
    EXPECT_TRUE(pushes.ok()) << pushes.status();
    return pushes.ok() ? pushes->size() : 0;
  }
  int64_t ToldOf(const TaskId& task, const std::string& name) {
    return reader_.FindPush(kAnna, task, name).value_or(TaskPush{}).told;
  }
};

TEST_F(TaskPushesTest, OneIsToldFromTheBeginningOrFromNowOn) {
  const TaskId id = Submit(Command());
  (void)Take().value();
  EXPECT_EQ(Put(id, "all")->told, 0);
  EXPECT_EQ(Put(id, "rest", -1)->told, 2);
  EXPECT_EQ(Put(id, "later", 99)->told, 2) << "what has not been cannot have been told";
  EXPECT_EQ(Count(id), 3u);
}

TEST_F(TaskPushesTest, WhatWasToldIsKnownAfterARestartAndNeverGoesBack) {
  const TaskId id = Submit(Command());
  (void)Take().value();
  ASSERT_TRUE(Put(id, "a").ok());
  ASSERT_TRUE(Told(id, "a", 2).ok());
  ASSERT_TRUE(Told(id, "a", 1).ok());
  Load();
  EXPECT_EQ(ToldOf(id, "a"), 2);
  EXPECT_EQ(Put(id, "a")->told, 2) << "the same message again";
  EXPECT_EQ(Put(id, "a", 0, "https://b.example/")->told, 0) << "somebody else";
  EXPECT_TRUE(Told(id, "nobody", 2).ok());
  int64_t seen = 0;
  ASSERT_TRUE(reader_.ScanPushes([&](const TaskPush&) { ++seen; }).ok());
  EXPECT_EQ(seen, 1);
}

TEST_F(TaskPushesTest, WhoIsNamedAgainIsToldWhatStillWaits) {
  const TaskId id = Submit(Command());
  ASSERT_EQ(Put(id, "a", -1)->told, 1);
  (void)Take().value();
  EXPECT_EQ(Put(id, "a", -1)->told, 1) << "the second event has not been told";
  EXPECT_EQ(Put(id, "a", -1, "https://b.example/")->told, 2) << "somebody else, from now on";
}

TEST_F(TaskPushesTest, WhatWasToldElsewhereIsNotToldHere) {
  const TaskId id = Submit(Command());
  (void)Take().value();
  ASSERT_TRUE(Put(id, "a").ok());
  ASSERT_TRUE(Put(id, "a", 0, "https://b.example/").ok());
  ASSERT_TRUE(Told(id, "a", 2).ok()) << "of the address that was there before";
  EXPECT_EQ(ToldOf(id, "a"), 0);
  ASSERT_TRUE(Told(id, "a", 2, "https://b.example/").ok());
  EXPECT_EQ(ToldOf(id, "a"), 2);
}

TEST_F(TaskPushesTest, WhoeverTellsHearsOfADeletion) {
  const TaskId id = Submit(Command());
  ASSERT_TRUE(Put(id, "a").ok());
  TaskStep step;
  ASSERT_TRUE(ledger_->DeletePush(kAnna, id, "a", step).ok());
  EXPECT_TRUE(step.changed.contains(id));
}

TEST_F(TaskPushesTest, AnothersTaskIsNone) {
  const TaskId id = Submit(Command());
  ASSERT_TRUE(Put(id, "a").ok());
  const TaskClient ben{"ben", false};
  EXPECT_TRUE(absl::IsNotFound(Put(id, "b", 0, "https://a.example/", ben).status()));
  EXPECT_TRUE(absl::IsNotFound(Delete(id, "a", ben)));
  EXPECT_TRUE(absl::IsNotFound(reader_.Pushes(ben, id).status()));
  EXPECT_TRUE(absl::IsNotFound(reader_.FindPush(ben, id, "a").status()));
  EXPECT_TRUE(absl::IsNotFound(Delete(id, "b")));
  EXPECT_TRUE(Delete(id, "a").ok());
  EXPECT_EQ(Count(id), 0u);
}

TEST_F(TaskPushesTest, TheyAreBoundedPerTaskAndInAll) {
  limits_.pushes_of_task = 2;
  limits_.pushes = 3;
  Load();
  const TaskId one = Submit(Command()), two = Submit(Command());
  ASSERT_TRUE(Put(one, "a").ok());
  ASSERT_TRUE(Put(one, "b").ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Put(one, "c").status()));
  EXPECT_TRUE(Put(one, "b", 0, "https://c.example/").ok()) << "in its own place";
  ASSERT_TRUE(Put(two, "a").ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Put(two, "b").status()));
  Load();
  EXPECT_TRUE(absl::IsResourceExhausted(Put(two, "b").status()));
  ASSERT_TRUE(Delete(one, "a").ok());
  EXPECT_TRUE(Put(two, "b").ok());
  limits_.push_bytes = 10;
  Load();
  const absl::Status s = Put(one, "b").status();
  EXPECT_TRUE(absl::IsInvalidArgument(s));
  EXPECT_THAT(std::string(s.message()), HasSubstr("at most 10"));
  EXPECT_TRUE(absl::IsInvalidArgument(Put(one, "").status()));
}

TEST_F(TaskPushesTest, TwoOfOneStepAreCountedBoth) {
  limits_.pushes_of_task = 1;
  Load();
  const TaskId id = Submit(Command());
  TaskPush push;
  push.task = id;
  push.url = "https://a.example/";
  TaskStep step;
  push.name = "a";
  EXPECT_TRUE(ledger_->PutPush(kAnna, push, now_, step).ok());
  push.name = "b";
  EXPECT_TRUE(absl::IsResourceExhausted(ledger_->PutPush(kAnna, push, now_, step).status()));
}

TEST_F(TaskPushesTest, TheyGoWithTheirTask) {
  limits_.pushes = 1;
  Load();
  const TaskId id = Submit(Command());
  ASSERT_TRUE(Put(id, "a").ok());
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  EXPECT_EQ(Count(id), 1u) << "it may be that not all has been told";
  ASSERT_TRUE(Purge(id).ok());
  int64_t seen = 0;
  ASSERT_TRUE(reader_.ScanPushes([&](const TaskPush&) { ++seen; }).ok());
  EXPECT_EQ(seen, 0);
  EXPECT_TRUE(Put(Submit(Command()), "a").ok()) << "there is room again";
}

}  // namespace
}  // namespace omni
