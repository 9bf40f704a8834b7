// Tasks of a cluster of processes: coordinators that are killed while tasks run, and nodes that do them.
#include <chrono>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include "omni/tasks/v1/tasks.grpc.pb.h"
#include "store/pack/pack.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/etcd.h"
#include "tests/testing/node_process.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {
namespace {

namespace pb = ::omni::tasks::v1;
using Clock = std::chrono::steady_clock;
using ::testing::ElementsAre;

class TasksTakeoverTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_dir_ = std::make_unique<TempDir>();
    ASSERT_TRUE(WriteRandomCheckpoint(*model_dir_ / "checkpoint", SmallConfig(), 5).ok());
    ASSERT_TRUE(PackModel(*model_dir_ / "checkpoint", *model_dir_ / "model", {}).ok());
  }
  static void TearDownTestSuite() { model_dir_.reset(); }

  void Start(const std::string& name, std::vector<std::string> arguments) {
    std::string& address = addresses_[name];
    if (address.empty()) address = "127.0.0.1:0";
    arguments.insert(arguments.end(), {"--name", name, "--listen", address, "-m", *model_dir_ / "model",
                                       "--threads", "1", "--log-level", "info", "--state", dir_ / name});
    auto& node = nodes_[name];
    node = nullptr;
    node = std::make_unique<NodeProcess>(OMNI_PROGRAM, std::move(arguments), dir_ / (name + ".log"));
    address = node->WaitForAddress();
    ASSERT_FALSE(address.empty()) << node->Log();
  }
  // Of a program "step", which says how often it was begun for its task, and ends after `seconds`.
  std::string Executors(const std::string& seconds) {
    const std::string path = dir_ / "executors.json";
    std::ofstream(path) << R"({"commands": {"step": {"argv": ["/bin/sh", "-c",
             "echo begun; echo left > artifacts/left; sleep )"
                        << seconds << R"(; echo $1", "step"], "slots": 4}}})";
    return path;
  }
  std::unique_ptr<pb::SwarmTasks::Stub> StubOf(const std::string& name) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
    return pb::SwarmTasks::NewStub(
        grpc::CreateCustomChannel(addresses_[name], grpc::InsecureChannelCredentials(), arguments));
  }
  // Asks whichever of the nodes answers, until one does.
  grpc::Status Ask(const std::vector<std::string>& names,
                   const std::function<grpc::Status(pb::SwarmTasks::Stub&, grpc::ClientContext*)>& call) {
    const auto until = Clock::now() + std::chrono::minutes(2);
    for (size_t turn = 0;; ++turn) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
      const grpc::Status status = call(*StubOf(names[turn % names.size()]), &context);
      const bool again = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                         status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
      if (!again || Clock::now() > until) return status;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
  std::string Submit(const std::vector<std::string>& names, const std::string& key, bool* existed = nullptr) {
    pb::SubmitTaskRequest request;
    request.set_idempotency_key(key);
    request.mutable_spec()->mutable_work()->mutable_command()->set_program("step");
    request.mutable_spec()->mutable_work()->mutable_command()->add_arguments(key);
    pb::SubmitTaskResponse response;
    const grpc::Status status = Ask(names, [&](pb::SwarmTasks::Stub& stub, grpc::ClientContext* context) {
      return stub.SubmitTask(context, request, &response);
    });
    EXPECT_TRUE(status.ok()) << status.error_message();
    if (existed != nullptr) *existed = response.existed();
    return response.task().id();
  }
  // To its end.
  std::vector<pb::TaskEvent> Watch(const std::vector<std::string>& names, const std::string& id) {
    std::vector<pb::TaskEvent> events;
    const grpc::Status status = Ask(names, [&](pb::SwarmTasks::Stub& stub, grpc::ClientContext* context) {
      pb::WatchTaskRequest watch;
      watch.set_id(id);
      watch.set_after(static_cast<int64_t>(events.size()));
      const auto reader = stub.WatchTask(context, watch);
      for (pb::TaskEvent event; reader->Read(&event);) {
        EXPECT_EQ(event.number(), static_cast<int64_t>(events.size()) + 1);
        events.push_back(event);
      }
      return reader->Finish();
    });
    EXPECT_TRUE(status.ok()) << status.error_message();
    return events;
  }
  static int CountOf(const std::vector<pb::TaskEvent>& events, pb::TaskEvent::Kind kind) {
    int count = 0;
    for (const pb::TaskEvent& event : events) count += event.kind() == kind;
    return count;
  }
  std::set<std::string> Offering(const std::string& name) {
    pb::ListExecutorsResponse response;
    (void)Ask({name}, [&](pb::SwarmTasks::Stub& stub, grpc::ClientContext* context) {
      return stub.ListExecutors(context, {}, &response);
    });
    std::set<std::string> nodes;
    for (const pb::Executor& executor : response.executors())
      if (executor.executor() == "command") nodes.insert(executor.node());
    return nodes;
  }
  std::string Logs() {
    std::string logs;
    for (const auto& [name, node] : nodes_) absl::StrAppend(&logs, "--- ", name, "\n", node->Log());
    return logs;
  }

  inline static std::unique_ptr<TempDir> model_dir_;
  TempDir dir_;
  std::map<std::string, std::string> addresses_;
  std::map<std::string, std::unique_ptr<NodeProcess>> nodes_;
};

TEST_F(TasksTakeoverTest, AStandbyTakesTheTasksOverAndEachEndsOnce) {
  if (const std::string why = EtcdCluster::WhyNot(); !why.empty()) GTEST_SKIP() << why;
  auto etcd = EtcdCluster::Start({});
  ASSERT_TRUE(etcd.ok()) << etcd.status();
  const std::vector<std::string> arguments = {"--etcd", (*etcd)->endpoints().front(), "--executors",
                                              Executors("0.2")};
  Start("first", arguments);
  Start("second", arguments);
  const std::vector<std::string> both = {"first", "second"};
  constexpr int kTasks = 40;
  std::vector<std::string> ids(kTasks);
  std::vector<std::vector<pb::TaskEvent>> told(kTasks);
  std::vector<std::thread> watchers;
  for (int n = 0; n < kTasks; ++n) {
    // The second has to send it on.
    ids[static_cast<size_t>(n)] = Submit({both[n % 2], both[1 - n % 2]}, absl::StrCat("key-", n));
    watchers.emplace_back([&, n] {
      told[static_cast<size_t>(n)] = Watch({both[n % 2], both[1 - n % 2]}, ids[static_cast<size_t>(n)]);
    });
    if (n == kTasks / 2) nodes_["first"]->Kill();
  }
  for (int n = 0; n < 4; ++n) (void)Watch(both, ids[static_cast<size_t>(n)]);
  Start("first", arguments);
  nodes_["second"]->Kill();
  for (std::thread& watcher : watchers) watcher.join();
  Start("second", arguments);
  EXPECT_EQ(std::set<std::string>(ids.begin(), ids.end()).size(), static_cast<size_t>(kTasks));
  for (int n = 0; n < kTasks; ++n) {
    const std::vector<pb::TaskEvent> events = Watch({"second", "first"}, ids[static_cast<size_t>(n)]);
    EXPECT_EQ(CountOf(events, pb::TaskEvent::OVER), 1);
    ASSERT_FALSE(events.empty()) << Logs();
    EXPECT_EQ(events.back().status(), pb::SUCCEEDED) << events.back().name() << Logs();
    const std::vector<pb::TaskEvent>& heard = told[static_cast<size_t>(n)];
    ASSERT_EQ(events.size(), heard.size());
    for (size_t i = 0; i < events.size(); ++i)
      EXPECT_EQ(events[i].SerializeAsString(), heard[i].SerializeAsString());
    bool existed = false;
    EXPECT_EQ(Submit(both, absl::StrCat("key-", n), &existed), ids[static_cast<size_t>(n)]);
    EXPECT_TRUE(existed);
  }
}

TEST_F(TasksTakeoverTest, NodesThatJoinedDoTasksAndAKilledOnesAreLentAgain) {
  Start("coordinator", {});
  const std::vector<std::string> joined = {"--join", addresses_["coordinator"], "--executors",
                                           Executors("0.1")};
  Start("one", joined);
  const std::string id = Submit({"one"}, "first");  // sent on
  const std::vector<pb::TaskEvent> events = Watch({"one"}, id);
  ASSERT_FALSE(events.empty()) << Logs();
  EXPECT_EQ(events.back().status(), pb::SUCCEEDED) << Logs();
  for (const pb::TaskEvent& event : events) {
    if (event.kind() == pb::TaskEvent::STARTED) {
      EXPECT_EQ(event.node(), "one");
    }
  }
  EXPECT_THAT(Offering("coordinator"), ElementsAre("one"));
  // What it left lies on the disk of the one that joined: the coordinator asks it, whoever is asked first.
  for (const char* asked : {"coordinator", "one"}) {
    pb::GetArtifactRequest get;
    get.set_id(id);
    get.set_name("left");
    pb::GetArtifactResponse left;
    (void)Ask({asked}, [&](pb::SwarmTasks::Stub& stub, grpc::ClientContext* context) {
      return stub.GetArtifact(context, get, &left);
    });
    EXPECT_EQ(left.data(), "left\n") << asked << Logs();
    EXPECT_EQ(left.node(), "one");
  }

  Executors("30");
  nodes_["one"] = nullptr;
  Start("one", joined);
  const std::string lost = Submit({"coordinator"}, "lost");
  const auto until = Clock::now() + std::chrono::minutes(1);
  pb::Task task;
  while (task.status() != pb::RUNNING && Clock::now() < until) {
    pb::GetTaskRequest get;
    get.set_id(lost);
    (void)Ask({"coordinator"}, [&](pb::SwarmTasks::Stub& stub, grpc::ClientContext* context) {
      return stub.GetTask(context, get, &task);
    });
  }
  ASSERT_EQ(task.status(), pb::RUNNING) << Logs();
  nodes_["one"]->Kill();
  Executors("0.1");
  Start("two", joined);
  const std::vector<pb::TaskEvent> again = Watch({"coordinator"}, lost);
  ASSERT_FALSE(again.empty()) << Logs();
  EXPECT_EQ(again.back().status(), pb::SUCCEEDED) << Logs();
  // What came to a call of the process before, which nobody had heard of the end of, was given back at once.
  const int returned = CountOf(again, pb::TaskEvent::RETURNED);
  // If its connection was not seen to end by then, it was lost with it, as the killed one's was.
  const int lost_attempts = CountOf(again, pb::TaskEvent::ATTEMPT_FAILED);
  EXPECT_THAT(lost_attempts, ::testing::AllOf(::testing::Ge(1), ::testing::Le(2)));
  EXPECT_EQ(CountOf(again, pb::TaskEvent::STARTED), 1 + lost_attempts + returned);
  EXPECT_EQ(CountOf(again, pb::TaskEvent::OVER), 1);
  std::vector<std::string> nodes;
  for (const pb::TaskEvent& event : again)
    if (event.kind() == pb::TaskEvent::STARTED) nodes.push_back(event.node());
  ASSERT_EQ(nodes.size(), static_cast<size_t>(1 + lost_attempts + returned));
  EXPECT_EQ(nodes.back(), "two");
  EXPECT_EQ(nodes[nodes.size() - 2], "one");
}

}  // namespace
}  // namespace omni::testing
