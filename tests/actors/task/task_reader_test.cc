// What can be read of tasks, and how lists go on while tasks change.
#include "actors/task/task_reader.h"

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

// They go in small steps, the first ones first.
TEST_F(TaskReaderTest, ATaskWhoseEventsAreGoingHasNone) {
  const TaskId id = Submit(Command());
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  ASSERT_TRUE(store_.Write({{EventKey(id, 1), std::nullopt}}).ok());
  EXPECT_EQ(reader_.Events(kAnna, id, 0, 100).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace omni
