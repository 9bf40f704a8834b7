#include "actors/task/task_record.h"

#include <limits>

#include <gtest/gtest.h>

namespace omni {
namespace {

TaskSpec Spec() {
  TaskSpec spec{.executor = "fanout",
                .target = "t",
                .input = std::string("a\0\xff", 3),
                .context = "c",
                .labels = {{"k", "v"}, {"l", ""}},
                .priority = -7,
                .not_before = TaskTime(TaskDuration(1)),
                .retain = TaskDuration(2),
                .retry = {.attempts = 4, .never = {"x", ""}},
                .timeouts = {.queue = TaskDuration(3)},
                .gather = TaskGather::kAny};
  spec.children = {{.executor = "command"}, {.executor = "model", .outlives_parent = true}};
  return spec;
}

TaskRecord Record() {
  TaskRecord record;
  record.state.id = std::string(32, 'a');
  record.state.caller = "anna";
  record.state.status = TaskStatus::kRunning;
  record.state.updated = TaskTime(TaskDuration(1'700'000'000'123));
  record.state.message = "m";
  record.retry = Spec().retry;
  record.lease = {.token = "t", .worker = "w", .began = {}, .ends = TaskTime(TaskDuration(9)), .reports = 3};
  record.key = "key";
  record.points = 5;
  return record;
}

// Of every cut and of every changed byte: an error, or something that is written as the same bytes.
template <typename Decode>
void Damage(const std::string& bytes, Decode decode) {
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_EQ(decode(bytes.substr(0, size)).status().code(), absl::StatusCode::kDataLoss) << size;
  EXPECT_FALSE(decode(bytes + '\0').ok());
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const int flip : {1, 0x80, 0xff}) {
      std::string damaged = bytes;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      const auto decoded = decode(damaged);
      EXPECT_TRUE(!decoded.ok() || Encode(*decoded) == damaged) << at;
    }
  }
}

TEST(TaskRecordTest, WhatIsReadIsWhatWasWrittenAndDamageIsNoticedOrHarmless) {
  const std::string record = Encode(Record());
  EXPECT_EQ(Encode(DecodeTaskRecord(record).value()), record);
  EXPECT_EQ(DecodeTaskRecord(record)->lease.reports, 3);
  EXPECT_EQ(DecodeTaskRecord(record)->state.updated, Record().state.updated);
  Damage(record, DecodeTaskRecord);

  const std::string work = Encode(TaskWork{Spec().input, Spec().labels, Spec().children});
  EXPECT_EQ(Encode(DecodeTaskWork(work).value()), work);
  EXPECT_EQ(DecodeTaskWork(work)->input, Spec().input);
  EXPECT_TRUE(DecodeTaskWork(work)->children[1].outlives_parent);
  Damage(work, DecodeTaskWork);

  const std::string event = Encode(TaskEvent{.number = 3, .kind = TaskEventKind::kOver, .data = "d"});
  EXPECT_EQ(Encode(DecodeTaskEvent(event).value()), event);
  Damage(event, DecodeTaskEvent);

  const std::string key = Encode(TaskKey{"id", 77});
  EXPECT_EQ(DecodeTaskKey(key)->content, 77u);
  Damage(key, DecodeTaskKey);

  TaskSchedule schedule;
  schedule.caller = "anna";
  schedule.spec = Spec();
  EXPECT_EQ(Encode(DecodeTaskSchedule(Encode(schedule)).value()), Encode(schedule));
  Damage(Encode(schedule), DecodeTaskSchedule);

  const std::string listed = Encode(TaskListed{TaskStatus::kFailed, "e", "c", "p"});
  EXPECT_EQ(DecodeTaskListed(listed)->context, "c");
  Damage(listed, DecodeTaskListed);
}

TEST(TaskRecordTest, ALaterVersionIsNamed) {
  std::string bytes = Encode(Record());
  bytes[0] = 9;
  EXPECT_NE(DecodeTaskRecord(bytes).status().message().find("its version is 9"), absl::string_view::npos);
}

TEST(TaskRecordTest, ChildrenOfChildrenAreRefusedAndDoNotExhaustTheStack) {
  TaskSpec deep;
  for (int n = 0; n < 100; ++n) {
    TaskSpec outer{.executor = "fanout"};
    outer.children.push_back(std::move(deep));
    deep = std::move(outer);
  }
  EXPECT_FALSE(DecodeTaskWork(Encode(TaskWork{"", {}, {deep}})).ok());
}

TEST(TaskRecordTest, KeysStandInTheOrderOfTheirTimesAndKeepNamesApart) {
  const auto time = [](int64_t ms) { return TaskTime(TaskDuration(ms)); };
  EXPECT_LT(OfKey("a", time(2), "x"), OfKey("a", time(1), "x")) << "the latest first";
  EXPECT_LT(RetainKey(time(1), "x"), RetainKey(time(2), "x"));
  EXPECT_LT(EventKey("x", 9), EventKey("x", 10));
  EXPECT_FALSE(OfKey("ab", time(1), "x").starts_with(OfPrefix("a")));
  EXPECT_NE(KeyKey("a/b", "c"), KeyKey("a", "b/c"));
  EXPECT_EQ(LastPart(OfKey("a", time(1), "id")), "id");
}

}  // namespace
}  // namespace omni
