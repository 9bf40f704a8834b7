// Several processes that are one model: what they answer is what one process answers, whatever becomes of
// them meanwhile.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "actors/memory.h"
#include "cluster/certificates.h"
#include "cluster/cluster_client.h"
#include "cluster/cluster_records.h"
#include "cluster/etcd_store.h"
#include "cluster/node.h"
#include "engine/text/prompt.h"
#include "omni/cluster/v1/admin.grpc.pb.h"
#include "omni/inference/v1/inference.grpc.pb.h"
#include "store/pack/pack.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/etcd.h"
#include "tests/testing/node_process.h"
#include "tests/testing/polytopes.h"
#include "tests/testing/store_calls.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
namespace fs = std::filesystem;

constexpr int kSessions = 8;
constexpr int64_t kTokens = 120;

std::string Prompt(int session) { return absl::StrCat("session ", session, " begins"); }

ClusterClient::Request RequestOf(int session) {
  ClusterClient::Request request;
  request.prompt = Prompt(session);
  request.max_tokens = kTokens;
  request.sampler.seed = static_cast<uint64_t>(session) + 1;
  request.sampler.temperature = session % 2 == 0 ? 0.0f : 0.9f;
  request.stop_at_end_of_text = false;
  // Two of four have perspectives, whose rows go to the regions like all others, one of these everything else
  // that acts around a token, and another nothing but that.
  // And one asks a memory where its perspectives cannot decide.
  if (session % 4 == 1) request.perspectives = *ParsePerspectives("far,every=2,examine=3,tau=0.001");
  if (session % 4 == 1) request.memory = "facts";
  if (session % 4 == 2) request.perspectives = *ParsePerspectives("near,use=average,every=3");
  if (session % 4 >= 2) {
    request.safety = "tight";
    request.context_memory = true;
  }
  return request;
}

class NodeProcessesTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_dir_ = std::make_unique<TempDir>();
    ASSERT_TRUE(WriteRandomCheckpoint(*model_dir_ / "checkpoint", SmallConfig(), 5).ok());
    ASSERT_TRUE(PackModel(*model_dir_ / "checkpoint", Model(), {}).ok());
    std::ofstream(Model() + "/polytopes.omni", std::ios::binary)
        << PolytopeBytes({RandomPolytope("tight", SmallConfig().d, 30, 0.3f, 1)});
    NodeOptions options;
    options.model = Model();
    options.memory = Memories();
    {
      const auto memory = Memory::Open(Memories());
      ASSERT_TRUE(memory.ok()) << memory.status();
      for (const char* key : {"session", "begins", "session 1 begins", "the"})
        ASSERT_TRUE((*memory)->Add("facts", {{key, "the end of the day"}}).ok());
    }
    auto node = Node::Start(nullptr, options);
    ASSERT_TRUE(node.ok()) << node.status();
    for (int s = 0; s < kSessions; ++s) {
      const ClusterClient::Request ask = RequestOf(s);
      GenerateRequest request;
      request.prompt = PromptTokens((*node)->model().tokenizer(), ask.prompt);
      request.max_tokens = ask.max_tokens;
      request.sampler = ask.sampler;
      request.perspectives = ask.perspectives;
      request.safety.polytope = ask.safety;
      request.memory.scope = ask.memory;
      request.context_memory = ask.context_memory;
      request.stop_at_end_of_text = false;
      auto result = (*node)->swarm().Generate(std::move(request), nullptr);
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_TRUE(s != 1 || (*node)->swarm().Stats().memory_recalled > 0) << "the memory is never asked";
      want_.push_back(result->tokens);
      want_text_.push_back(result->text);
    }
  }
  static void TearDownTestSuite() { model_dir_.reset(); }
  static std::string Memories() { return *model_dir_ / "memories"; }
  static std::string Model() { return *model_dir_ / "model"; }

  NodeProcess& Start(const std::string& name, std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--name", name, "--log-level", "info", "--threads", "1"});
    auto& node = nodes_[name];
    node = nullptr;
    node = std::make_unique<NodeProcess>(OMNI_PROGRAM, std::move(arguments), dir_ / (name + ".log"));
    return *node;
  }
  // The coordinator offers no memory for experts, so that every region is to be elsewhere.
  void StartCoordinator(const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"--listen",    address_.empty() ? "127.0.0.1:0" : address_,
                                          "-m",          Model(),
                                          "--offer-ram", "1",
                                          "--state",     dir_ / "state",
                                          "--memory",    Memories()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    address_ = Start("coordinator", arguments).WaitForAddress();
    ASSERT_FALSE(address_.empty()) << nodes_["coordinator"]->Log();
  }
  void StartWorker(const std::string& name, const std::string& model = Model(),
                   const std::string& listen = "") {
    std::string& address = worker_addresses_[name];
    if (!listen.empty()) address = listen;
    std::vector<std::string> arguments = {
        "--listen", address.empty() ? "127.0.0.1:0" : address, "-m", model, "--join", address_};
    arguments.insert(arguments.end(), worker_arguments_.begin(), worker_arguments_.end());
    address = Start(name, arguments).WaitForAddress();
    ASSERT_FALSE(address.empty()) << nodes_[name]->Log();
  }

  std::unique_ptr<ClusterClient> Client() {
    auto client = ClusterClient::Make({.addresses = {address_}, .certificates = client_certificates_});
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  // Waits until the cluster is as it is to be.
  void Await(const char* what, const std::function<bool(const ClusterReport&)>& is_so) {
    const auto client = Client();
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    absl::StatusOr<ClusterReport> report;
    while (std::chrono::steady_clock::now() < until) {
      report = client->Status();
      if (report.ok() && is_so(*report)) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    std::string logs;
    for (const auto& [name, node] : nodes_) absl::StrAppend(&logs, "--- ", name, "\n", node->Log());
    FAIL() << "not within a minute: " << what << "\n" << report.status() << "\n" << logs;
  }
  void AwaitSpread(size_t workers) {
    Await("all regions are at the workers, with shadows where there are two",
          [&](const ClusterReport& report) {
            size_t up = 0;
            for (const NodeView& node : report.view.nodes) up += node.up && !node.self;
            for (const RegionView& region : report.view.regions) {
              if (region.record.owner.value == "coordinator" || !region.record.target.value.empty())
                return false;
              if (workers > 1 && region.record.shadow.value.empty()) return false;
            }
            return up == workers;
          });
  }

  // One answer; `at` is done when so many of its tokens have come.
  void ExpectAnswer(int session, const std::map<size_t, std::function<void()>>& at = {}) {
    size_t tokens = 0;
    auto answer = Client()->Generate(RequestOf(session), [&](const GenerateEvent& event) {
      if (event.is_token) {
        if (const auto deed = at.find(++tokens); deed != at.end()) deed->second();
      }
      return true;
    });
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->tokens, want_[static_cast<size_t>(session)]) << "session " << session;
    EXPECT_EQ(answer->text, want_text_[static_cast<size_t>(session)]);
    EXPECT_EQ(answer->reason, "length");
    last_ = *std::move(answer);
  }
  void ExpectAllAnswers() {
    std::vector<std::thread> threads;
    std::vector<absl::StatusOr<ClusterClient::Answer>> answers(kSessions);
    for (int s = 0; s < kSessions; ++s) {
      threads.emplace_back(
          [&, s] { answers[static_cast<size_t>(s)] = Client()->Generate(RequestOf(s), nullptr); });
    }
    for (std::thread& thread : threads) thread.join();
    for (size_t s = 0; s < kSessions; ++s) {
      ASSERT_TRUE(answers[s].ok()) << answers[s].status();
      EXPECT_EQ(answers[s]->tokens, want_[s]) << "session " << s;
    }
  }

  inline static std::unique_ptr<TempDir> model_dir_;
  inline static std::vector<std::vector<TokenId>> want_;
  inline static std::vector<std::string> want_text_;
  TempDir dir_;
  std::string address_;
  std::string client_certificates_;
  std::vector<std::string> worker_arguments_;
  std::map<std::string, std::string> worker_addresses_;
  std::map<std::string, std::unique_ptr<NodeProcess>> nodes_;
  ClusterClient::Answer last_;
};

TEST_F(NodeProcessesTest, OneTwoThreeAndFiveNodesGiveTheSameAnswers) {
  StartCoordinator();
  ExpectAllAnswers();
  for (int workers = 1; workers <= 4; ++workers) {
    StartWorker(absl::StrCat("w", workers));
    if (workers == 3) continue;
    AwaitSpread(static_cast<size_t>(workers));
    ExpectAllAnswers();
  }
}

// What it offers is for experts; its sessions take other memory.
TEST_F(NodeProcessesTest, ACoordinatorThatOffersNothingAnswersSeveralAtTheSameTime) {
  StartCoordinator();
  std::atomic<bool> first_begun{false}, second_begun{false};
  ClusterClient::Request whole = RequestOf(0);
  whole.max_tokens = 1 << 14;
  std::thread first([&] {
    auto answer = Client()->Generate(whole, [&](const GenerateEvent& event) {
      first_begun = first_begun || event.is_token;
      first_begun.notify_all();
      return !second_begun;
    });
    EXPECT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->reason, "cancelled") << "the second had to wait for the first's end";
    first_begun = true;
    first_begun.notify_all();
  });
  first_begun.wait(false);
  auto second = Client()->Generate(RequestOf(1), [&](const GenerateEvent&) { return second_begun = true; });
  first.join();
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->tokens, want_[1]);
}

TEST_F(NodeProcessesTest, WhoListensAndHearsNothingIsNotHungUpOn) {
  StartCoordinator();
  Await("it leads", [](const ClusterReport&) { return true; });
  grpc::ChannelArguments pings;
  pings.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(kClientPing.count()));
  pings.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  const auto stub = cluster::v1::Admin::NewStub(
      grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), pings));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + 6 * kClientPing);
  const auto reports = stub->Watch(&context, cluster::v1::StatusRequest());
  cluster::v1::ClusterStatus report;
  while (reports->Read(&report)) {
  }
  const grpc::Status end = reports->Finish();
  EXPECT_EQ(end.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << end.error_message();
}

TEST_F(NodeProcessesTest, AKilledWorkerCostsNoToken) {
  StartCoordinator();
  StartWorker("w1");
  StartWorker("w2");
  AwaitSpread(2);
  ExpectAnswer(2, {{20, [&] { nodes_["w1"]->Kill(); }},
                   {50, [&] { StartWorker("w1"); }},
                   {80, [&] { nodes_["w2"]->Kill(); }}});
  EXPECT_EQ(last_.reconnects, 0);
}

TEST_F(NodeProcessesTest, AStoppedWorkerCostsNoTokenAndComesBack) {
  StartCoordinator();
  StartWorker("w1");
  StartWorker("w2");
  AwaitSpread(2);
  ExpectAnswer(2, {{20, [&] { nodes_["w1"]->Stop(); }}});
  Await("the stopped node is suspect or given up", [](const ClusterReport& report) {
    for (const NodeView& node : report.view.nodes) {
      if (node.id.value == "w1" && !node.up) return true;
    }
    return std::any_of(report.peers.begin(), report.peers.end(), [](const PeerView& p) { return p.suspect; });
  });
  nodes_["w1"]->Continue();
  AwaitSpread(2);
  ExpectAnswer(3);
}

TEST_F(NodeProcessesTest, AnAnswerGoesOnWhenItsCoordinatorIsKilledAndStartedAgain) {
  StartCoordinator();
  StartWorker("w1");
  AwaitSpread(1);
  const auto again = [&] {
    nodes_["coordinator"]->Kill();
    StartCoordinator();
  };
  ExpectAnswer(3, {{1, again}, {60, again}, {static_cast<size_t>(kTokens), again}});
  EXPECT_GE(last_.reconnects, 2);
}

TEST_F(NodeProcessesTest, AnAnswerIsForgottenWhenNobodyTakesItUpForItsTime) {
  StartCoordinator({"--keep-answers", "1s"});
  ClusterClient::Request request = RequestOf(0);
  request.id = "kept";
  ASSERT_TRUE(Client()->Generate(request, nullptr).ok());
  // A client that says it has more than there is takes nothing up, and hears whether there is anything.
  const auto stub =
      inference::v1::Inference::NewStub(grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  const auto known = [&] {
    grpc::ClientContext context;
    inference::v1::GenerateRequest ask;
    ask.set_request_id("kept");
    ask.set_have(1'000'000);
    const auto reader = stub->GenerateStream(&context, ask);
    inference::v1::GenerateResponse message;
    while (reader->Read(&message)) {
    }
    return reader->Finish().error_code();
  };
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  grpc::StatusCode code = known();
  while (code != grpc::NOT_FOUND && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    code = known();
  }
  EXPECT_EQ(code, grpc::NOT_FOUND);
}

TEST_F(NodeProcessesTest, NodesComeBackToACoordinatorThatHasLostItsRecords) {
  StartCoordinator();
  StartWorker("w1");
  AwaitSpread(1);
  // Its terms are the higher the more often it was started.
  nodes_["coordinator"]->Kill();
  StartCoordinator();
  AwaitSpread(1);
  nodes_["coordinator"]->Kill();
  fs::remove_all(dir_ / "state");
  StartCoordinator();
  AwaitSpread(1);
  ExpectAnswer(2);
}

TEST_F(NodeProcessesTest, RegionsMoveWhileDecodingGoesOn) {
  StartCoordinator();
  StartWorker("w1");
  StartWorker("w2");
  AwaitSpread(2);
  const auto client = Client();
  const auto place_all = [&](const std::string& node) {
    for (int32_t r = 0; r < static_cast<int32_t>(SmallConfig().num_regions()); ++r)
      EXPECT_TRUE(client->Place(RegionId(r), {node}).ok());
  };
  ExpectAnswer(4, {{10, [&] { place_all("w1"); }},
                   {40, [&] { place_all("w2"); }},
                   {70, [&] { place_all("coordinator"); }},
                   {90, [&] { EXPECT_TRUE(client->Drain({"w1"}, false).ok()); }}});
  Await("nothing is at the drained node, all else where it was placed", [](const ClusterReport& report) {
    for (const RegionView& region : report.view.regions) {
      if (region.record.owner.value != "coordinator" || region.record.shadow.value == "w1") return false;
    }
    return true;
  });
  const auto report = client->Status();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->migrations, 0);
  ASSERT_EQ(report->peers.size(), 2u);
  for (const PeerView& peer : report->peers) {
    EXPECT_GT(peer.sent_bytes, 0);
    EXPECT_GT(peer.received_bytes, 0);
    EXPECT_GT(peer.requests, 0);
    EXPECT_GT(peer.answers, 0);
    EXPECT_GE(peer.connections, 1);
    EXPECT_GT(peer.rtt_p50.count(), 0);
    EXPECT_GE(peer.rtt_p99, peer.rtt_p50);
  }
  const absl::Status nowhere = client->Place(RegionId(0), {"nobody"});
  EXPECT_EQ(nowhere.code(), absl::StatusCode::kNotFound) << nowhere;
  EXPECT_EQ(client->Drain({"nobody"}, false).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(client->Place(RegionId(1000), {"w1"}).code(), absl::StatusCode::kNotFound);
  // The drained node is switched off for good.
  const absl::Status connected = client->Forget({"w1"});
  EXPECT_EQ(connected.code(), absl::StatusCode::kFailedPrecondition) << connected;
  EXPECT_EQ(nodes_["w1"]->Interrupt(), 0);
  Await("it is forgotten", [&](const ClusterReport& now) {
    const bool there = std::any_of(now.view.nodes.begin(), now.view.nodes.end(),
                                   [](const NodeView& node) { return node.id.value == "w1"; });
    if (there) client->Forget({"w1"}).IgnoreError();
    return !there;
  });
}

TEST_F(NodeProcessesTest, AnEmptyDirectoryFillsItselfOnceAndIsThereAfterARestart) {
  StartCoordinator();
  StartWorker("w1", dir_ / "empty");
  AwaitSpread(1);
  ExpectAnswer(5);
  nodes_["w1"]->Kill();
  // Nobody else has its tiles but the coordinator, which gives none any more.
  fs::rename(Model() + "/packs", Model() + "/hidden");
  StartWorker("w1", dir_ / "empty");
  Await("it holds its regions again", [](const ClusterReport& report) {
    for (const NodeView& node : report.view.nodes) {
      if (node.id.value == "w1" && node.up && node.holdings.filling == 0) return true;
    }
    return false;
  });
  fs::rename(Model() + "/hidden", Model() + "/packs");
  ExpectAnswer(6);
}

TEST_F(NodeProcessesTest, WhoHasAnotherModelIsRefusedWithTheReasonInBothLogs) {
  StartCoordinator();
  ASSERT_TRUE(WriteRandomCheckpoint(dir_ / "checkpoint", SmallConfig(), 6).ok());
  ASSERT_TRUE(PackModel(dir_ / "checkpoint", dir_ / "other", {}).ok());
  StartWorker("stranger", dir_ / "other");
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (nodes_["stranger"]->Log().find("does not take this node") == std::string::npos &&
         std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_THAT(nodes_["stranger"]->Log(), HasSubstr("the node's model is "));
  EXPECT_THAT(nodes_["coordinator"]->Log(), HasSubstr("node stranger at "));
  EXPECT_THAT(nodes_["coordinator"]->Log(), HasSubstr("may not join: the node's model is "));
}

TEST_F(NodeProcessesTest, EveryNodeEndsInOrderWhenItIsAsked) {
  StartCoordinator();
  StartWorker("w1");
  AwaitSpread(1);
  ExpectAnswer(7);
  EXPECT_EQ(nodes_["w1"]->Interrupt(), 0) << nodes_["w1"]->Log();
  EXPECT_EQ(nodes_["coordinator"]->Interrupt(), 0) << nodes_["coordinator"]->Log();
}

// A stopped process looks like this: the system takes its connections, and nobody ever says a word.
TEST_F(NodeProcessesTest, WhoTakesConnectionsAndSaysNothingIsLeftForTheNext) {
  const int deaf = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(at);
  ASSERT_EQ(::bind(deaf, reinterpret_cast<sockaddr*>(&at), size), 0);
  ASSERT_EQ(::listen(deaf, 8), 0);
  ASSERT_EQ(::getsockname(deaf, reinterpret_cast<sockaddr*>(&at), &size), 0);
  StartCoordinator();
  auto client = ClusterClient::Make({.addresses = {absl::StrCat("127.0.0.1:", ntohs(at.sin_port)), address_},
                                     .patience = std::chrono::seconds(15)});
  ASSERT_TRUE(client.ok());
  const auto answer = (*client)->Generate(RequestOf(3), nullptr);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->tokens, want_[3]);
  ::close(deaf);
}

TEST_F(NodeProcessesTest, NodesWithCertificatesTalkToNobodyWithoutOne) {
  ASSERT_TRUE(MakeAuthority(dir_ / "authority").ok());
  ASSERT_TRUE(MakeAuthority(dir_ / "others").ok());
  const std::vector<std::string> hosts = {"127.0.0.1"};
  ASSERT_TRUE(MakeNodeCertificate(dir_ / "authority", "coordinator", hosts, dir_ / "c").ok());
  ASSERT_TRUE(MakeNodeCertificate(dir_ / "authority", "w1", hosts, dir_ / "w").ok());
  ASSERT_TRUE(MakeNodeCertificate(dir_ / "others", "w1", hosts, dir_ / "o").ok());
  StartCoordinator({"--certificates", dir_ / "c"});
  worker_arguments_ = {"--certificates", dir_ / "w"};
  StartWorker("w1", dir_ / "empty");
  client_certificates_ = dir_ / "w";
  AwaitSpread(1);
  ExpectAnswer(1);
  for (const std::string& certificates : {std::string(), dir_ / "o"}) {
    auto stranger = ClusterClient::Make(
        {.addresses = {address_}, .certificates = certificates, .patience = std::chrono::seconds(1)});
    ASSERT_TRUE(stranger.ok()) << stranger.status();
    const absl::Status refused = (*stranger)->Status().status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
    if (!certificates.empty()) {
      EXPECT_THAT(std::string(refused.message()), HasSubstr("authority"));
    }
    EXPECT_FALSE((*stranger)->Generate(RequestOf(2), nullptr).ok());
  }
}

TEST_F(NodeProcessesTest, OffLoopbackWithoutCertificatesANodeDoesNotStart) {
  NodeProcess& node = Start("open", {"--listen", "0.0.0.0:0", "-m", Model(), "--state", dir_ / "state"});
  EXPECT_EQ(node.WaitForAddress(), "");
  EXPECT_THAT(node.Log(), HasSubstr("--allow-plain"));
}

// Two coordinators over one etcd, which keeps the answers' log and the placement: the second waits for the
// first one's lease.
class TwoCoordinatorsTest : public NodeProcessesTest {
 protected:
  void SetUp() override {
    if (const std::string why = EtcdCluster::WhyNot(); !why.empty()) GTEST_SKIP() << why;
    auto etcd = EtcdCluster::Start({});
    ASSERT_TRUE(etcd.ok()) << etcd.status();
    etcd_ = *std::move(etcd);
    const std::vector<std::string> kept = {"--etcd", etcd_->endpoints().front(), "--durable", "cluster"};
    StartCoordinator(kept);
    StartWorker("w1");
    AwaitSpread(1);
    // What each remembers is its own, and here the same.
    fs::copy(Memories(), std::string(dir_ / "memories2"), fs::copy_options::recursive);
    std::vector<std::string> arguments = {
        "--listen", "127.0.0.1:0",   "-m",       Model(),           "--offer-ram", "1",
        "--state",  dir_ / "state2", "--memory", dir_ / "memories2"};
    arguments.insert(arguments.end(), kept.begin(), kept.end());
    second_ = Start("second", arguments).WaitForAddress();
    ASSERT_FALSE(second_.empty()) << nodes_["second"]->Log();
  }

  // One answer, asked of both, in whose middle the first coordinator is struck.
  void ExpectAnswerOfBoth(const std::function<void()>& strike, int session = 2) {
    auto client = ClusterClient::Make({.addresses = {address_, second_}});
    ASSERT_TRUE(client.ok());
    size_t tokens = 0;
    auto answer = (*client)->Generate(RequestOf(session), [&](const GenerateEvent& event) {
      if (event.is_token && ++tokens == 30) strike();
      return true;
    });
    ASSERT_TRUE(answer.ok()) << answer.status() << nodes_["second"]->Log();
    EXPECT_EQ(answer->tokens, want_[static_cast<size_t>(session)]);
    EXPECT_GE(answer->reconnects, 1);
  }

  std::unique_ptr<EtcdCluster> etcd_;
  std::string second_;
};

TEST_F(TwoCoordinatorsTest, TheSecondGoesOnWithTheAnswersOfAKilledOne) {
  ExpectAnswerOfBoth([&] { nodes_["coordinator"]->Kill(); });
}

TEST_F(TwoCoordinatorsTest, TheSecondGoesOnWithWhatTheFirstRememberedIfItRemembersTheSame) {
  ExpectAnswerOfBoth([&] { nodes_["coordinator"]->Kill(); }, 1);
}

TEST_F(TwoCoordinatorsTest, OneThatIsStoppedInOrderHasGivenItsLeaseBackWhenItEnds) {
  auto store = EtcdStore::Open({.endpoints = etcd_->endpoints(), .prefix = "omni/"});
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(nodes_["coordinator"]->Interrupt(), 0) << nodes_["coordinator"]->Log();
  for (const Record& record : StoreCalls(**store).MustRead(kLeaderKey).records)
    EXPECT_EQ(ParseLeaderRecord(record.value)->node.value, "second") << record.value;
  address_ = second_;
  Await("the second leads", [](const ClusterReport& report) { return report.view.leader.value == "second"; });
}

TEST_F(TwoCoordinatorsTest, OneThatIsStartedAgainTakesItsOwnLeaseOver) {
  nodes_["second"]->Kill();
  nodes_["coordinator"]->Kill();
  StartCoordinator({"--etcd", etcd_->endpoints().front(), "--durable", "cluster"});
  AwaitSpread(1);
  EXPECT_THAT(nodes_["coordinator"]->Log(), Not(HasSubstr("waits: coordinator leads")));
  ExpectAnswer(1);
}

TEST_F(TwoCoordinatorsTest, AStoppedOneFindsWhenItWakesThatItLeadsNoMore) {
  ExpectAnswerOfBoth([&] { nodes_["coordinator"]->Stop(); });
  nodes_["coordinator"]->Continue();
  Await("whoever is asked names the second",
        [](const ClusterReport& report) { return report.view.leader.value == "second"; });
  // The first is asked alone, and sends its callers on.
  size_t reports = 0;
  EXPECT_TRUE(Client()
                  ->Watch(
                      [&](const ClusterReport& report) {
                        EXPECT_EQ(report.view.leader.value, "second");
                        return ++reports == 0;
                      },
                      {})
                  .ok());
  EXPECT_EQ(reports, 1u);
  auto client = ClusterClient::Make({.addresses = {address_}});
  ASSERT_TRUE(client.ok());
  auto answer = (*client)->Generate(RequestOf(2), nullptr);
  ASSERT_TRUE(answer.ok()) << answer.status() << nodes_["coordinator"]->Log();
  EXPECT_EQ(answer->tokens, want_[2]);
  EXPECT_THAT(nodes_["coordinator"]->Log(), HasSubstr("leads no more"));
}

}  // namespace
}  // namespace omni::testing
