// Tasks from their being handed in to their end, on a database.
#include "actors/task/task_engine.h"

#include <future>

#include <gtest/gtest.h>

#include "store/state/database.h"
#include "store/state/record_store.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using testing::TempDir;

template <typename T, typename Call>
absl::StatusOr<T> Wait(Call call) {
  std::promise<absl::StatusOr<T>> promise;
  auto future = promise.get_future();
  call([&](absl::StatusOr<T> value) { promise.set_value(std::move(value)); });
  return future.get();
}
template <typename Call>
absl::Status WaitStatus(Call call) {
  std::promise<absl::Status> promise;
  auto future = promise.get_future();
  call([&](absl::Status status) { promise.set_value(std::move(status)); });
  return future.get();
}

class TaskEngineTest : public ::testing::Test {
 protected:
  void Open() {
    engine_.reset();
    store_.reset();
    database_.reset();
    database_ = Database::Open(dir_.path() + "/tasks", {}).value();
    store_ = MakeDatabaseRecordStore(*database_);
    TaskEngine::Options options;
    options.now = [this] { return now_.load(); };
    engine_ = TaskEngine::Start(*store_, options).value();
  }
  void SetUp() override { Open(); }
  void PassTime(TaskDuration time) {
    now_ = now_.load() + time;
    engine_->Wake();
  }

  absl::StatusOr<TaskSubmitted> Submit(TaskSpec spec, std::string key = "", std::string caller = "anna") {
    return Wait<TaskSubmitted>([&](auto done) { engine_->Submit({caller, key, spec}, done); });
  }
  std::optional<TaskAssignment> Take(std::string worker = "w1") {
    return Wait<std::optional<TaskAssignment>>([&](auto done) {
             engine_->Take(worker, "node", {{"command", "*"}}, done);
           })
        .value();
  }
  TaskState Find(const TaskId& id) { return engine_->reader().Find({"anna", false}, id).value(); }
  std::vector<TaskEvent> Events(const TaskId& id) {
    return engine_->reader().Events({"anna", false}, id, 0, 1000).value();
  }

  TempDir dir_;
  std::atomic<TaskTime> now_{TaskTime(std::chrono::hours(24 * 20'000))};
  std::unique_ptr<Database> database_;
  std::unique_ptr<RecordStore> store_;
  std::unique_ptr<TaskEngine> engine_;
};

TEST_F(TaskEngineTest, ATaskIsAcceptedLentReportedAndOver) {
  const TaskId id = Submit({.executor = "command", .target = "echo", .input = "hello"}).value().state.id;
  const TaskAssignment given = Take().value();
  EXPECT_EQ(given.state.id, id);
  EXPECT_EQ(given.work.input, "hello");
  EXPECT_FALSE(Take().has_value()) << "one executor at a time";
  TaskReport report;
  report.items.push_back({TaskEventKind::kOutput, "stdout", "hello\n"});
  ASSERT_TRUE(Wait<TaskLedger::Told>([&](auto done) { engine_->Report(given.token, report, done); }).ok());
  ASSERT_TRUE(WaitStatus([&](auto told) { engine_->Succeed(given.token, {}, "0", told); }).ok());
  EXPECT_EQ(Find(id).status, TaskStatus::kSucceeded);
  EXPECT_EQ(engine_->reader().Result({"anna", false}, id).value(), "0");
  const std::vector<TaskEvent> events = Events(id);
  std::vector<TaskEventKind> kinds;
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].number, static_cast<int64_t>(i) + 1);
    kinds.push_back(events[i].kind);
  }
  EXPECT_EQ(kinds, (std::vector<TaskEventKind>{TaskEventKind::kSubmitted, TaskEventKind::kStarted,
                                               TaskEventKind::kOutput, TaskEventKind::kOver}));
  EXPECT_EQ(WaitStatus([&](auto told) { engine_->Succeed(given.token, {}, "1", told); }).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(TaskEngineTest, AKeyIsOneTaskOverARestartAndNotTwoContents) {
  const TaskId id = Submit({.executor = "command", .input = "a"}, "k").value().state.id;
  Open();
  const TaskSubmitted again = Submit({.executor = "command", .input = "a"}, "k").value();
  EXPECT_TRUE(again.again);
  EXPECT_EQ(again.state.id, id);
  EXPECT_EQ(Submit({.executor = "command", .input = "b"}, "k").status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_NE(Submit({.executor = "command", .input = "b"}, "k", "bert").value().state.id, id);
}

TEST_F(TaskEngineTest, AnothersTaskIsAsGoodAsNone) {
  const TaskId id = Submit({.executor = "command"}).value().state.id;
  const absl::Status none = engine_->reader().Find({"bert", false}, std::string(32, 'a')).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(engine_->reader().Find({"bert", false}, id).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Wait<TaskState>([&](auto done) {
              engine_->Cancel({"bert", false}, id, done);
            })
                .status()
                .code(),
            absl::StatusCode::kNotFound);
  EXPECT_TRUE(engine_->reader().List({"bert", false}, {}, 10, "").value().tasks.empty());
  EXPECT_EQ(engine_->reader().List({"root", true}, {}, 10, "").value().tasks.size(), 1u);
}

TEST_F(TaskEngineTest, ALeaseThatRanOutIsNotTakenUpAgain) {
  const TaskId id = Submit({.executor = "command"}).value().state.id;
  const TaskAssignment first = Take().value();
  PassTime(std::chrono::seconds(15));
  const TaskAssignment second = Take().value();
  EXPECT_EQ(second.state.attempt, 2);
  EXPECT_NE(first.token, second.token);
  EXPECT_FALSE(WaitStatus([&](auto told) { engine_->Succeed(first.token, {}, "late", told); }).ok());
  EXPECT_TRUE(WaitStatus([&](auto told) { engine_->Succeed(second.token, {}, "right", told); }).ok());
  EXPECT_EQ(engine_->reader().Result({"anna", false}, id).value(), "right");
}

TEST_F(TaskEngineTest, WhoeverWaitsForATaskHasItWithTheSyncThatAcceptsIt) {
  std::promise<std::optional<TaskAssignment>> given;
  engine_->Await("w1", "node", {{"command", "*"}}, std::chrono::hours(1),
                 [&](absl::StatusOr<std::optional<TaskAssignment>> task) { given.set_value(task.value()); });
  const int64_t syncs = engine_->figures().syncs;
  const TaskId id = Submit({.executor = "command"}).value().state.id;
  const std::optional<TaskAssignment> task = given.get_future().get();
  ASSERT_TRUE(task.has_value());
  EXPECT_EQ(task->state.id, id);
  EXPECT_EQ(engine_->figures().syncs, syncs + 1);
}

TEST_F(TaskEngineTest, WhoeverWaitsForATaskInVainIsToldWhenItsTimeIsOverOrTheEngineDrains) {
  const auto await = [&](std::promise<bool>& none) {
    engine_->Await("w1", "node", {{"command", "*"}}, std::chrono::hours(1),
                   [&](absl::StatusOr<std::optional<TaskAssignment>> task) {
                     none.set_value(task.ok() && !task->has_value());
                   });
  };
  std::promise<bool> late, drained;
  await(late);
  (void)Submit({.executor = "model"});  // so that the wait has begun
  PassTime(std::chrono::hours(2));
  EXPECT_TRUE(late.get_future().get());
  await(drained);
  engine_->Drain();
  EXPECT_TRUE(drained.get_future().get());
}

TEST_F(TaskEngineTest, AFanOutIsDoneWhenItsChildrenAre) {
  TaskSpec spec{.executor = kFanout};
  for (int i = 0; i < 20; ++i) spec.children.push_back({.executor = "command", .input = std::to_string(i)});
  const TaskId id = Submit(spec).value().state.id;
  for (int i = 0; i < 20; ++i) {
    std::optional<TaskAssignment> given;
    while (!given.has_value()) given = Take();
    EXPECT_EQ(given->state.parent, id);
    ASSERT_TRUE(WaitStatus([&](auto told) { engine_->Succeed(given->token, {}, "", told); }).ok());
  }
  EXPECT_EQ(Find(id).status, TaskStatus::kSucceeded);
  EXPECT_EQ(Find(id).children_succeeded, 20);
}

}  // namespace
}  // namespace omni
