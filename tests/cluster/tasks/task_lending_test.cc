// Tasks that one node keeps and others do, over gRPC.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include "cluster/tasks/lending_service.h"
#include "cluster/tasks/remote_lender.h"
#include "cluster/tasks/task_runner.h"
#include "tests/testing/memory_records.h"

namespace omni {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using testing::MemoryRecords;

// Does what its input says: "wait" until it is to stop, "part" a checkpoint and then the end, else the end.
class Worker final : public TaskExecutor {
 public:
  std::vector<Offer> offers() const override { return {{{"command", "*"}, "of a test"}}; }
  int slots() const override { return 4; }
  TaskOutcome Run(TaskAttempt& attempt) override {
    ++runs;
    const TaskAssignment& task = attempt.task();
    attempt.Output("stdout", task.work.input + "\n");
    if (task.work.input == "fail") return TaskOutcome::Failed("exit", "code 1");
    if (task.work.input == "part") {
      attempt.Checkpoint(std::string(100'000, 'p'));
      if (task.checkpoint.empty()) return TaskOutcome::Failed("exit", "in the middle");
      return TaskOutcome::Succeeded(std::to_string(task.checkpoint.size()) + " " + task.work.labels.at("l"));
    }
    if (task.work.input != "wait") return TaskOutcome::Succeeded("did " + task.work.input);
    std::promise<void> stopped;
    attempt.SetOnStop([&] { stopped.set_value(); });
    stopped.get_future().wait();
    attempt.SetOnStop(nullptr);
    return StoppedOutcome(attempt.stop());
  }
  std::atomic<int> runs = 0;
};

// A node that keeps tasks, or one that says who does.
struct Keeper {
  explicit Keeper(RecordStore* store) {
    if (store != nullptr) engine = TaskEngine::Start(*store, {}).value();
    lending = std::make_unique<LendingService>(
        engine.get(),
        [this] { return leads ? absl::OkStatus() : absl::UnavailableError("this node does not coordinate"); },
        [this] { return elsewhere; });
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.SetMaxReceiveMessageSize(64 << 20);
    builder.RegisterService(lending->service());
    server = builder.BuildAndStart();
    address = "127.0.0.1:" + std::to_string(port);
  }
  ~Keeper() {
    if (engine != nullptr) engine->Drain();
    server->Shutdown();
    server = nullptr;
  }
  std::unique_ptr<TaskEngine> engine;
  std::unique_ptr<LendingService> lending;
  std::unique_ptr<grpc::Server> server;
  std::string address, elsewhere;
  std::atomic<bool> leads = true;
};

// A node that does them.
struct Node {
  Node(const std::string& name, std::vector<std::string> keepers, TaskLender* own = nullptr,
       std::function<bool()> own_keeps = nullptr) {
    RemoteLenderOptions options;
    options.credentials = grpc::InsecureChannelCredentials();
    options.keeper = [keepers](size_t turn) { return keepers.empty() ? "" : keepers[turn % keepers.size()]; };
    options.own = own;
    options.own_keeps = std::move(own_keeps);
    options.places = [name] { return std::vector<TaskPlaces>{{"command", "*", name, 4, 0, "of a test"}}; };
    lender = std::make_unique<RemoteLender>(std::move(options));
    TaskRunnerOptions with;
    with.node = name;
    runner = TaskRunner::Start(*lender, {&executor}, with).value();
  }
  Worker executor;
  std::unique_ptr<RemoteLender> lender;
  std::unique_ptr<TaskRunner> runner;  // goes first
};

class TaskLendingTest : public ::testing::Test {
 protected:
  TaskId Submit(Keeper& keeper, TaskSpec spec) {
    spec.executor = "command";
    spec.retry.first = TaskDuration(0);
    std::promise<TaskId> told;
    keeper.engine->Submit({"anna", "", spec}, [&](const absl::StatusOr<TaskSubmitted>& given) {
      told.set_value(given.value().state.id);
    });
    return told.get_future().get();
  }
  static TaskState Await(Keeper& keeper, const TaskId& id, const std::function<bool(const TaskState&)>& is) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    while (true) {
      const TaskState state = keeper.engine->reader().Find({"anna", false}, id).value();
      if (is(state) || std::chrono::steady_clock::now() > until) return state;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  static TaskState AwaitOver(Keeper& keeper, const TaskId& id) {
    return Await(keeper, id, [](const TaskState& state) { return IsOver(state.status); });
  }
  static TaskState AwaitRunning(Keeper& keeper, const TaskId& id) {
    return Await(keeper, id, [](const TaskState& state) { return state.status == TaskStatus::kRunning; });
  }
  static std::string Result(Keeper& keeper, const TaskId& id) {
    return keeper.engine->reader().Result({"anna", false}, id).value_or("none");
  }

  MemoryRecords records_;
};

TEST_F(TaskLendingTest, TasksAreDoneByNodesThatOfferTo) {
  Keeper keeper(&records_);
  Node one("one", {keeper.address}), two("two", {keeper.address});
  std::vector<TaskId> ids;
  for (int n = 0; n < 40; ++n) ids.push_back(Submit(keeper, {.input = std::to_string(n)}));
  for (int n = 0; n < 40; ++n) {
    const TaskState state = AwaitOver(keeper, ids[static_cast<size_t>(n)]);
    EXPECT_EQ(state.status, TaskStatus::kSucceeded) << state.error << " " << state.message;
    EXPECT_EQ(state.attempt, 1);
    EXPECT_EQ(Result(keeper, ids[static_cast<size_t>(n)]), "did " + std::to_string(n));
  }
  EXPECT_EQ(one.executor.runs + two.executor.runs, 40);
  std::vector<std::string> nodes;
  for (const TaskPlaces& place : keeper.lending->places()) nodes.push_back(place.node);
  EXPECT_THAT(nodes, ElementsAre("one", "two"));
}

TEST_F(TaskLendingTest, WhatFailsIsTriedAgainFromItsCheckpoint) {
  Keeper keeper(&records_);
  Node node("one", {keeper.address});
  const TaskId part = Submit(keeper, {.input = "part", .labels = {{"l", "label"}}});
  const TaskId fails = Submit(keeper, {.input = "fail", .retry = {.attempts = 2, .never = {}}});
  EXPECT_EQ(AwaitOver(keeper, part).status, TaskStatus::kSucceeded);
  EXPECT_EQ(Result(keeper, part), "100000 label");
  const TaskState failed = AwaitOver(keeper, fails);
  EXPECT_EQ(failed.status, TaskStatus::kFailed);
  EXPECT_EQ(failed.error, "exit");
  EXPECT_EQ(failed.attempt, 2);
}

TEST_F(TaskLendingTest, ACancelledTaskStopsWhereItRunsAndATimeEnds) {
  Keeper keeper(&records_);
  Node node("one", {keeper.address});
  const TaskId late = Submit(
      keeper,
      {.input = "wait", .retry = {.attempts = 1, .never = {}}, .timeouts = {.run = TaskDuration(300)}});
  EXPECT_EQ(AwaitOver(keeper, late).error, kErrorTimeout);
  const TaskId id = Submit(keeper, {.input = "wait"});
  EXPECT_EQ(AwaitRunning(keeper, id).node, "one");
  keeper.engine->Cancel({"anna", false}, id, [](const absl::StatusOr<TaskState>&) {});
  EXPECT_EQ(AwaitOver(keeper, id).status, TaskStatus::kCancelled);
}

// By its lease this would take a quarter of a minute.
TEST_F(TaskLendingTest, WhatANodeHadThatCameBackAsAnotherProcessIsLentAgainAtOnce) {
  Keeper keeper(&records_);
  TaskId id;
  std::string token;
  {
    // One that dies without a word.
    RemoteLender lender({.credentials = grpc::InsecureChannelCredentials(),
                         .keeper = [&](size_t) { return keeper.address; }});
    id = Submit(keeper, {.input = "a"});
    std::promise<std::string> taken;
    lender.Await("first", "one", {{"command", "*"}}, seconds(30),
                 [&](const absl::StatusOr<std::optional<TaskAssignment>>& given) {
                   taken.set_value(given.value().value().token);
                 });
    token = taken.get_future().get();
  }
  const auto began = std::chrono::steady_clock::now();
  Node again("one", {keeper.address});
  const TaskState state = AwaitOver(keeper, id);
  EXPECT_EQ(state.status, TaskStatus::kSucceeded);
  EXPECT_EQ(state.losses, 1);
  EXPECT_EQ(state.attempt, 2);
  EXPECT_LT(std::chrono::steady_clock::now() - began, seconds(14));
  std::promise<absl::Status> late;
  again.lender->Succeed(token, {}, "late", [&](const absl::Status& s) { late.set_value(s); });
  EXPECT_TRUE(absl::IsFailedPrecondition(late.get_future().get()));
}

TEST_F(TaskLendingTest, WhoeverIsNamedIsAskedAndAKeptTokenIsGoodWithTheNextKeeper) {
  Keeper keeper(&records_), other(nullptr);
  other.leads = false;
  other.elsewhere = keeper.address;
  Node node("one", {other.address});
  const TaskId id = Submit(keeper, {.input = "a"});
  EXPECT_EQ(AwaitOver(keeper, id).status, TaskStatus::kSucceeded);
}

TEST_F(TaskLendingTest, ANodeThatEndsGivesBackWhatItHas) {
  Keeper keeper(&records_);
  TaskId id;
  {
    Node node("one", {keeper.address});
    id = Submit(keeper, {.input = "wait"});
    AwaitRunning(keeper, id);
    node.lender->StopTaking();
    node.runner->Drain();
  }
  const TaskState state =
      Await(keeper, id, [](const TaskState& s) { return s.status == TaskStatus::kQueued; });
  EXPECT_EQ(state.status, TaskStatus::kQueued);
  EXPECT_EQ(state.losses, 0);
  EXPECT_EQ(state.failures, 0);
}

// As when a node's call is cancelled on its way back: by its lease the task would wait for a quarter of a
// minute.
TEST_F(TaskLendingTest, WhatWasGivenToACallThatANodeHadCancelledGoesBackAsItEnds) {
  Keeper keeper(&records_);
  TaskId id;
  const auto began = std::chrono::steady_clock::now();
  {
    RemoteLender lender({.credentials = grpc::InsecureChannelCredentials(),
                         .keeper = [&](size_t) { return keeper.address; }});
    std::promise<void> ended;
    lender.Await("process", "one", {{"command", "other"}}, seconds(30),
                 [&](const absl::StatusOr<std::optional<TaskAssignment>>&) { ended.set_value(); });
    id = Submit(keeper, {.input = "a"});
    std::promise<bool> taken;
    keeper.engine->Await("process", "one", {{"command", "*"}}, seconds(30),
                         [&](const absl::StatusOr<std::optional<TaskAssignment>>& given) {
                           taken.set_value(given.ok() && given->has_value());
                         });
    ASSERT_TRUE(taken.get_future().get());
    lender.StopTaking();
    ended.get_future().wait();
  }
  const TaskState state =
      Await(keeper, id, [](const TaskState& s) { return s.status == TaskStatus::kQueued; });
  EXPECT_EQ(state.status, TaskStatus::kQueued);
  EXPECT_EQ(state.losses, 0);
  EXPECT_LT(std::chrono::steady_clock::now() - began, seconds(14));
}

// With the last channel gRPC joins its threads that call back: one of those must not be who lets go of it.
TEST_F(TaskLendingTest, WhatACallHasIsGoneBeforeItsLenderIs) {
  struct Slow {  // as a thread that is held up while it lets go of a call
    ~Slow() {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      *gone = true;
    }
    std::atomic<bool>* gone;
  };
  Keeper keeper(&records_);
  std::atomic<bool> gone = false;
  {
    RemoteLender lender({.credentials = grpc::InsecureChannelCredentials(),
                         .keeper = [&](size_t) { return keeper.address; }});
    std::promise<void> ended;
    lender.Return("none",
                  [&ended, slow = std::make_shared<Slow>(&gone)](const absl::Status&) { ended.set_value(); });
    ended.get_future().wait();
  }
  EXPECT_TRUE(gone);
  for (int i = 0; i < 1000 && !gone; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

TEST_F(TaskLendingTest, WhileItKeepsThemItselfANodeAsksNobody) {
  Keeper keeper(&records_);
  std::atomic<bool> own_keeps = true;
  {
    Node node("one", {}, keeper.engine.get(), [&] { return own_keeps.load(); });
    EXPECT_EQ(AwaitOver(keeper, Submit(keeper, {.input = "a"})).status, TaskStatus::kSucceeded);
    const TaskId id = Submit(keeper, {.input = "wait"});
    AwaitRunning(keeper, id);
    own_keeps = false;  // nobody is known
    std::promise<absl::Status> asked;
    node.lender->Return("x", [&](const absl::Status& s) { asked.set_value(s); });
    EXPECT_TRUE(absl::IsUnavailable(asked.get_future().get()));
    own_keeps = true;
    keeper.engine->Cancel({"anna", false}, id, [](const absl::StatusOr<TaskState>&) {});
    EXPECT_EQ(AwaitOver(keeper, id).status, TaskStatus::kCancelled);
  }
}

}  // namespace
}  // namespace omni
