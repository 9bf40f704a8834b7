// A record that cannot be read is one task's misfortune.
#include <gmock/gmock.h>

#include "engine/base/log_output.h"
#include "tests/actors/task/ledger_fixture.h"

namespace omni {
namespace {

using std::chrono::hours;
using testing::Command;
using testing::FanOut;
using ::testing::SizeIs;

class Names : public LogSink {
 public:
  Names() : before_(SetLogSink(this)) {}
  ~Names() override { SetLogSink(before_); }
  void Write(const LogRecord& record) override { names.emplace_back(record.event); }
  std::vector<std::string> names;

 private:
  LogSink* const before_;
};

class TaskDamageTest : public testing::LedgerTest {
 protected:
  void Damage(const TaskId& id) {
    const auto record = store_.Get(OverKey(id));
    ASSERT_TRUE(record.ok() && record->has_value());
    ASSERT_TRUE(store_.Write({{OverKey(id), (*record)->substr(0, (*record)->size() / 2)}}).ok());
  }
  TaskId Over() {
    const TaskId id = Submit(Command());
    EXPECT_TRUE(Succeed(Take().value().token).ok());
    return id;
  }

  Names log_;
};

TEST_F(TaskDamageTest, OneThatIsOverIsLeftAloneAndAllOthersGoOn) {
  const TaskId damaged = Over(), whole = Over();
  Damage(damaged);
  Load();
  for (const absl::Status& s : {Retry(damaged), Purge(damaged), reader_.Find(kAnna, damaged).status()})
    EXPECT_EQ(s.code(), absl::StatusCode::kDataLoss) << s;
  EXPECT_THAT(log_.names, ::testing::Contains("task_unreadable"));
  EXPECT_THAT(reader_.List(kAnna, {}, 10, "")->tasks, SizeIs(1));
  (void)Over();
  Pass(hours(24 * 8));  // all are kept for a week
  EXPECT_EQ(reader_.Find(kAnna, whole).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(reader_.Find(kAnna, damaged).status().code(), absl::StatusCode::kDataLoss);
  const size_t said = log_.names.size();
  const TaskId later = Over();
  Pass(hours(24 * 8));
  EXPECT_EQ(reader_.Find(kAnna, later).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(log_.names.size(), said) << "it is not come to again";
}

TEST_F(TaskDamageTest, AKeyOfSuchATaskIsRefusedAndOthersAreNot) {
  const TaskId id = Submit(Command(), "key");
  ASSERT_TRUE(Succeed(Take().value().token).ok());
  Damage(id);
  EXPECT_EQ(TrySubmit(Command(), "key").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(TrySubmit(Command(), "other").ok());
}

TEST_F(TaskDamageTest, AChildWhoseParentCannotBeReadEndsAndStaysOver) {
  TaskSpec spec = FanOut(2);
  for (TaskSpec& child : spec.children) child.outlives_parent = true;
  const TaskId parent = Submit(spec);
  const TaskAssignment first = Take().value();
  ASSERT_TRUE(Cancel(parent).ok());
  Settle();
  Damage(parent);
  ASSERT_TRUE(Succeed(first.token).ok());
  EXPECT_EQ(Find(first.state.id).status, TaskStatus::kSucceeded);
  ASSERT_TRUE(Cancel(Take().value().state.id).ok());
}

TEST_F(TaskDamageTest, AFanOutIsNotStoppedByAnUnreadableParentOfOrphans) {
  const TaskId parent = Submit(FanOut(3));
  ASSERT_TRUE(Cancel(parent).ok());  // its children are cancelled by Settle
  Damage(parent);
  Settle();
  const TaskId other = Over();
  EXPECT_EQ(Find(other).status, TaskStatus::kSucceeded);
}

TEST_F(TaskDamageTest, AFanOutThatIsHandedInAgainCountsAnUnreadableChildAsFailed) {
  TaskSpec spec = FanOut(3);
  for (TaskSpec& child : spec.children) child.retry.attempts = 1;
  const TaskId parent = Submit(spec);
  const TaskAssignment lost = Take().value();
  ASSERT_TRUE(Succeed(lost.token).ok());
  for (int n = 0; n < 2; ++n) ASSERT_TRUE(Fail(Take().value().token).ok());
  Damage(lost.state.id);
  ASSERT_TRUE(Retry(parent).ok());
  Settle();
  for (int n = 0; n < 2; ++n) ASSERT_TRUE(Succeed(Take().value().token).ok());
  EXPECT_EQ(Find(parent).status, TaskStatus::kFailed);
  EXPECT_EQ(Find(parent).children_over, 3);
  EXPECT_EQ(Find(parent).children_succeeded, 2);
}

}  // namespace
}  // namespace omni
