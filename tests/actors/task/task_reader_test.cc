// What can be read of tasks, and how lists go on while tasks change.
#include "actors/task/task_reader.h"

#include <functional>
#include <utility>

#include <gmock/gmock.h>

#include "tests/actors/task/ledger_fixture.h"

namespace omni {
namespace {

using std::chrono::milliseconds;
using testing::Command;
using ::testing::ElementsAre;
using testing::FanOut;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class TaskReaderTest : public testing::LedgerTest {
 protected:
  std::vector<TaskId> Ids(const TaskPage& page) {
    std::vector<TaskId> ids;
    for (const TaskState& task : page.tasks) ids.push_back(task.id);
    return ids;
  }
  TaskPage List(const TaskFilter& filter, int most, const std::string& from = "",
                const TaskClient& by = kAnna) {
    const absl::StatusOr<TaskPage> page = reader_.List(by, filter, most, from);
    EXPECT_TRUE(page.ok()) << page.status();
    return page.ok() ? *page : TaskPage{};
  }
  TaskId SubmitLater(const TaskSpec& spec, const std::string& caller = "anna") {
    Pass(milliseconds(1));
    return Submit(spec, "", caller);
  }
};

TEST_F(TaskReaderTest, PagesGoOnWhereTheLastEndedWhateverChangesMeanwhile) {
  std::vector<TaskId> ids;
  for (int n = 0; n < 7; ++n) ids.push_back(SubmitLater(Command()));
  const TaskPage first = List({}, 3);
  EXPECT_THAT(Ids(first), ElementsAre(ids[6], ids[5], ids[4]));
  Pass(milliseconds(1));
  ASSERT_TRUE(Cancel(ids[5]).ok());  // moves to the front
  ASSERT_TRUE(Cancel(ids[4]).ok());  // the page's last one
  ASSERT_TRUE(Purge(ids[4]).ok());
  (void)SubmitLater(Command());
  const TaskPage second = List({}, 3, first.next);
  EXPECT_THAT(Ids(second), ElementsAre(ids[3], ids[2], ids[1]));
  const TaskPage third = List({}, 3, second.next);
  EXPECT_THAT(Ids(third), ElementsAre(ids[0]));
  EXPECT_EQ(third.next, "");
  EXPECT_THAT(List({}, 3).tasks, SizeIs(3));
}

TEST_F(TaskReaderTest, AListIsNarrowedAndIsTheCallersOwn) {
  const TaskId plain = SubmitLater(Command());
  TaskSpec talk = Command();
  talk.context = "talk";
  const TaskId other = SubmitLater(talk, "bert");
  const TaskId mine = SubmitLater(talk);
  const TaskId parent = SubmitLater(FanOut(2));
  EXPECT_THAT(Ids(List({.context = "talk"}, 10)), ElementsAre(mine));
  EXPECT_THAT(Ids(List({.context = "talk"}, 10, "", {"", true})), ElementsAre(mine, other));
  EXPECT_THAT(List({.parent = parent}, 10).tasks, SizeIs(2));
  EXPECT_THAT(Ids(List({.executor = kFanout}, 10)), ElementsAre(parent));
  const TaskTime since = now_;
  EXPECT_THAT(List({.updated_since = since}, 10).tasks, SizeIs(3));
  Pass(milliseconds(1));
  EXPECT_THAT(List({.updated_since = now_}, 10).tasks, IsEmpty());
  ASSERT_TRUE(Fail(Take().value().token, kErrorInvalid).ok());
  EXPECT_THAT(List({.statuses = {TaskStatus::kFailed}}, 10, "", {"", true}).tasks, SizeIs(1));
  EXPECT_EQ(Find(plain).caller, "anna");
}

TEST_F(TaskReaderTest, ATokenThatNoListGaveIsRefused) {
  for (const std::string& from : {std::string("x"), std::string(49, 'a'), std::string(48, '0'),
                                  std::string(16, '0') + "/" + std::string(32, 'g')})
    EXPECT_EQ(reader_.List(kAnna, {}, 3, from).status().code(), absl::StatusCode::kInvalidArgument) << from;
}

TEST_F(TaskReaderTest, EventsGoOnAfterANumberInPartsOfAboutSoManyBytes) {
  const TaskId id = Submit(Command());
  const std::string token = Take().value().token;
  for (int n = 1; n <= 4; ++n)
    ASSERT_TRUE(
        Report(token, {.items = {{TaskEventKind::kOutput, "", std::string(1000, 'a')}}, .number = n}).ok());
  EXPECT_THAT(reader_.Events(kAnna, id, 0, 3).value(), SizeIs(3));
  EXPECT_THAT(reader_.Events(kAnna, id, 2, 100, 1500).value(), SizeIs(2));
  EXPECT_THAT(reader_.Events(kAnna, id, 2, 100, 1).value(), SizeIs(1));
  EXPECT_EQ(reader_.Events(kAnna, id, 4, 100)->front().number, 5);
  EXPECT_THAT(reader_.Events(kAnna, id, 6, 100).value(), IsEmpty());
  EXPECT_EQ(reader_.Result(kAnna, id).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(reader_.Events({"bert", false}, id, 0, 1).status().code(), absl::StatusCode::kNotFound);
}

// Does something between two reads, once.
class Between : public RecordStore {
 public:
  explicit Between(RecordStore& store) : store_(store) {}
  void AfterGet(std::string prefix, std::function<void()> then) {
    prefix_ = std::move(prefix);
    then_ = std::move(then);
  }
  void AfterScan(std::function<void()> then) { AfterGet("", std::move(then)); }

  absl::Status Write(const RecordWrites& writes) override { return store_.Write(writes); }
  absl::Status Recover() override { return store_.Recover(); }
  size_t max_changes() const override { return store_.max_changes(); }
  absl::StatusOr<std::optional<std::string>> Get(std::string_view key) const override {
    auto value = store_.Get(key);
    if (!prefix_.empty() && key.starts_with(prefix_)) Then();
    return value;
  }
  absl::Status Scan(std::string_view prefix, std::string_view from,
                    const RecordVisitor& visit) const override {
    const absl::Status s = store_.Scan(prefix, from, visit);
    if (prefix_.empty()) Then();
    return s;
  }

 private:
  void Then() const {
    if (const auto then = std::exchange(then_, nullptr)) then();
  }

  RecordStore& store_;
  std::string prefix_;
  mutable std::function<void()> then_;
};

TEST_F(TaskReaderTest, AResultThatIsPurgedWhileItIsReadIsNoneAndNotEmpty) {
  const TaskId id = Submit(Command());
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  Between between(store_);
  const TaskReader reader(between);
  EXPECT_EQ(reader.Result(kAnna, id).value(), "result");
  between.AfterGet(kOverPrefix, [&] { EXPECT_TRUE(Purge(id).ok()); });
  EXPECT_EQ(reader.Result(kAnna, id).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TaskReaderTest, WhatChangesWhileAListIsReadFitsItStillOrIsLeftOut) {
  std::vector<TaskId> ids;
  for (int n = 0; n < 3; ++n) ids.push_back(SubmitLater(Command()));
  Between between(store_);
  const TaskReader reader(between);
  const auto cancel = [&](const TaskId& id) {
    between.AfterScan([this, id] {
      Pass(milliseconds(1));
      EXPECT_TRUE(Cancel(id).ok());
    });
  };
  cancel(ids[1]);
  const TaskPage queued = reader.List(kAnna, {.statuses = {TaskStatus::kQueued}}, 10, "").value();
  EXPECT_THAT(Ids(queued), ElementsAre(ids[2], ids[0]));
  cancel(ids[0]);
  EXPECT_THAT(Ids(reader.List(kAnna, {}, 10, "").value()), ElementsAre(ids[0], ids[1], ids[2]));
}

// They go in small steps, the first ones first.
TEST_F(TaskReaderTest, ATaskWhoseEventsAreGoingHasNone) {
  const TaskId id = Submit(Command());
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  ASSERT_TRUE(store_.Write({{EventKey(id, 1), std::nullopt}}).ok());
  EXPECT_EQ(reader_.Events(kAnna, id, 0, 100).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace omni
