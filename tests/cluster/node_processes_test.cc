// Several processes that are one model: what they answer is what one process answers, whatever becomes of
// them meanwhile.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "cluster/certificates.h"
#include "cluster/cluster_client.h"
#include "cluster/cluster_records.h"
#include "cluster/etcd_store.h"
#include "omni/cluster/v1/admin.grpc.pb.h"
#include "omni/inference/v1/inference.grpc.pb.h"
#include "tests/cluster/node_processes_fixture.h"
#include "tests/testing/etcd.h"
#include "tests/testing/store_calls.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
namespace fs = std::filesystem;

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
    std::vector<std::string> arguments = {"--listen",    "127.0.0.1:0", "-m",       Model(),
                                          "--offer-ram", "1",           "--state",  dir_ / "state2",
                                          "--adapters",  Adapters(),    "--memory", dir_ / "memories2"};
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
