#include "cluster/peer_state.h"

#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cluster/testing.h"
#include "tests/testing/random_model.h"
#include "tests/testing/recording_log.h"

namespace omni {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using testing::Encoded;
using testing::FramesOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MakeReply;
using testing::MakeRequest;

using Time = std::chrono::steady_clock::time_point;

// Keeps what is written by all of its streams.
class FakeTransport {
 public:
  class Stream : public FrameStream {
   public:
    explicit Stream(FakeTransport& transport) : transport_(transport) { ++transport_.open; }
    ~Stream() override { --transport_.open; }
    void Write(std::string frame) override { transport_.written.push_back(std::move(frame)); }
    int64_t unsent_bytes() const override { return 0; }

   private:
    FakeTransport& transport_;
  };
  std::unique_ptr<FrameStream> Open(const std::string& address) {
    addresses.push_back(address);
    return std::make_unique<Stream>(*this);
  }
  std::vector<std::string> addresses, written;
  int open = 0;
};

class Events : public RegionLinkEvents {
 public:
  void OnReply(RegionReplyPtr reply) override { replies.push_back(std::move(reply)); }
  void OnLost(RegionId region, std::string reason) override {
    lost.push_back(region);
    reasons.push_back(std::move(reason));
  }
  void OnMoved(RegionId, uint64_t) override { ADD_FAILURE() << "a stream moves nothing"; }
  std::vector<RegionReplyPtr> replies;
  std::vector<RegionId> lost;
  std::vector<std::string> reasons;
};

class PeerStateTest : public ::testing::Test, public PeerState::Owner {
 protected:
  PeerStateTest() : health_(config_.num_regions()) { peer_ = MakePeer(1); }

  std::unique_ptr<PeerState> MakePeer(uint64_t seed) {
    return std::make_unique<PeerState>(
        config_, options_, "host:1", HelloFrame{kClusterProtocols, {"c"}, 5, "model", 16, "name", "id"},
        [this](const std::string& address) { return transport_.Open(address); }, health_, counters_, events_,
        *this, seed, /*source=*/3);
  }

  void OnUp(const WelcomeFrame& welcome) override {
    ups.push_back(welcome.node.value);
    protocols.push_back(welcome.protocol);
    programs.push_back(welcome.program);
  }
  void OnDown(const absl::Status& reason) override { downs.emplace_back(reason.message()); }
  void OnHoldings(const HoldingsFrame& holdings) override { holdings_.push_back(holdings.regions); }
  void OnFree(uint64_t bytes) override { free_ = bytes; }

  void Hear(const Frame& frame) { peer_->OnFrame(Encoded(frame), now_); }
  void Tick(std::chrono::nanoseconds time) {
    now_ += time;
    peer_->OnTick(now_);
  }
  void ComeUp(std::vector<RegionId> holds = {RegionId(0), RegionId(1), RegionId(2)}) {
    Hear(WelcomeFrame{kClusterProtocols.newest, {"n"}, 1 << 20, 4});
    Hear(HoldingsFrame{0, std::move(holds), 0, 0, 0, ""});
    transport_.written.clear();
  }
  void StartUp() {
    peer_->Start(now_);
    ComeUp();
  }
  RegionRequestPtr Send(uint64_t id, RegionId region = RegionId(1)) {
    const auto request = MakeRequest(config_, id, region, 4);
    peer_->Send({request}, now_);
    return request;
  }
  template <typename F>
  std::vector<F> Said() {
    const std::vector<F> frames = FramesOf<F>(transport_.written, config_);
    return frames;
  }
  // Until it connects again; the time that it waited.
  std::chrono::milliseconds WaitForConnection() {
    const size_t before = transport_.addresses.size();
    std::chrono::milliseconds waited(0);
    while (transport_.addresses.size() == before && waited < 10s) {
      Tick(1ms);
      waited += 1ms;
    }
    EXPECT_LT(waited, 10s);
    return waited;
  }

  const ModelConfig config_ = testing::TinyConfig();
  PeerOptions options_;
  Time now_ = Time(1h);
  FakeTransport transport_;
  NodeHealth health_;
  PeerCounters counters_;
  Events events_;
  std::unique_ptr<PeerState> peer_;
  std::vector<std::string> ups, downs, programs;
  std::vector<uint32_t> protocols;
  std::vector<std::vector<RegionId>> holdings_;
  uint64_t free_ = 0;
};

TEST_F(PeerStateTest, SaysHelloFirstAndIsUpOnceItIsWelcome) {
  peer_->Start(now_);
  EXPECT_THAT(transport_.addresses, ElementsAre("host:1"));
  ASSERT_EQ(transport_.written.size(), 1u);
  const HelloFrame hello = Said<HelloFrame>().at(0);
  EXPECT_EQ(hello.coordinator.value, "c");
  EXPECT_EQ(hello.term, 5u);
  EXPECT_EQ(hello.model_hash, "model");
  EXPECT_EQ(hello.cluster, "name");
  EXPECT_FALSE(peer_->up());
  EXPECT_FALSE(health_.up());
  Hear(WelcomeFrame{kClusterProtocols.newest, {"n"}, 1 << 20, 4});
  EXPECT_TRUE(peer_->up());
  EXPECT_TRUE(health_.up());
  EXPECT_THAT(ups, ElementsAre("n"));
  EXPECT_EQ(counters_.connections.Get(), 1);
}

TEST_F(PeerStateTest, ANodeOfAnotherProtocolIsToldSoAndNotTaken) {
  testing::RecordingLog log;
  for (const uint32_t protocol : {0u, kClusterProtocols.newest + 1}) {
    peer_ = MakePeer(1);
    transport_.written.clear();
    downs.clear();
    peer_->Start(now_);
    Hear(WelcomeFrame{protocol, {"n"}, 1 << 20, 4});
    Hear(HoldingsFrame{0, {RegionId(0)}, 0, 0, 0, ""});
    EXPECT_FALSE(peer_->up());
    EXPECT_FALSE(health_.up());
    EXPECT_FALSE(health_.Holds(RegionId(0)));
    EXPECT_THAT(ups, IsEmpty());
    const std::string why =
        absl::StrCat("the node's protocol is ", protocol, ", the coordinator's is 1 to 2");
    ASSERT_EQ(Said<GoodbyeFrame>().size(), 1u);
    EXPECT_EQ(Said<GoodbyeFrame>()[0].reason, why);
    EXPECT_THAT(downs, IsEmpty()) << "until the node has closed the stream, or does not for too long";
    if (protocol == 0) {
      peer_->OnClosed(absl::OkStatus(), now_);
    } else {
      Tick(options_.connect);
    }
    EXPECT_THAT(downs, ElementsAre(why));
    EXPECT_THAT(log.Messages("node_refused").back(), HasSubstr(why));
    // It is asked again, and may be another program by then.
    WaitForConnection();
    Hear(WelcomeFrame{protocol, {"n"}, 1 << 20, 4});
    peer_->OnClosed(absl::OkStatus(), now_);
    EXPECT_EQ(log.Messages("node_refused").size(), protocol == 0 ? 1u : 2u) << "once is enough";
    WaitForConnection();
    Hear(WelcomeFrame{kClusterProtocols.newest, {"n"}, 1 << 20, 4});
    EXPECT_TRUE(peer_->up());
    ups.clear();
  }
}

TEST_F(PeerStateTest, ANodeOfTheProtocolBeforeIsTakenAsItIs) {
  peer_->Start(now_);
  // Who speaks protocol 1 alone reads the first number and no other.
  EXPECT_EQ(Said<HelloFrame>().at(0).protocols, (ProtocolRange{1, 2}));
  Hear(WelcomeFrame{1, {"n"}, 1 << 20, 4});
  Hear(HoldingsFrame{0, {RegionId(1)}, 0, 0, 0, ""});
  EXPECT_TRUE(peer_->up());
  Send(7);
  Hear(AnswersFrame{{MakeReply(config_, *MakeRequest(config_, 7, RegionId(1), 4), 1)}});
  EXPECT_EQ(events_.replies.size(), 1u);
  // Upgraded, it comes back and speaks the next.
  peer_->OnClosed(absl::UnavailableError("it is upgraded"), now_);
  WaitForConnection();
  Hear(WelcomeFrame{2, {"n"}, 1 << 20, 4, "1.2.3"});
  EXPECT_TRUE(peer_->up());
  EXPECT_THAT(protocols, ElementsAre(1u, 2u));
  EXPECT_THAT(programs, ElementsAre("", "1.2.3"));
}

TEST_F(PeerStateTest, CountsTheBytesOfBothDirections) {
  peer_->Start(now_);
  const std::string welcome = EncodeFrame(WelcomeFrame{kClusterProtocols.newest, {"n"}, 1 << 20, 4});
  peer_->OnFrame(FrameBytesOf(welcome), now_);
  Send(7);
  int64_t sent = 0;
  for (const std::string& frame : transport_.written) sent += static_cast<int64_t>(frame.size());
  EXPECT_EQ(transport_.written.size(), 2u);
  EXPECT_EQ(counters_.sent_bytes.Get(), sent);
  EXPECT_EQ(counters_.received_bytes.Get(), static_cast<int64_t>(welcome.size()));
}

TEST_F(PeerStateTest, WhatItHoldsIsKnownToTheLinks) {
  StartUp();
  EXPECT_TRUE(health_.Holds(RegionId(0)));
  EXPECT_FALSE(health_.Holds(RegionId(5)));
  Hear(HoldingsFrame{0, {RegionId(5)}, 0, 0, 0, ""});
  EXPECT_FALSE(health_.Holds(RegionId(0)));
  EXPECT_TRUE(health_.Holds(RegionId(5)));
  EXPECT_THAT(holdings_.back(), ElementsAre(RegionId(5)));
  Hear(PongFrame{1, 4711});
  EXPECT_EQ(free_, 4711u);
}

TEST_F(PeerStateTest, WhatItIsToHoldIsSaidAgainAfterEveryReconnection) {
  const AssignFrame assign{9, {{RegionId(1), 4, HoldingRole::kOwner}}, {}};
  peer_->Start(now_);
  peer_->Assign(assign, now_);
  EXPECT_THAT(Said<AssignFrame>(), IsEmpty()) << "before it is welcome";
  Hear(WelcomeFrame{});
  EXPECT_THAT(Said<AssignFrame>(), ElementsAre(assign));
  peer_->Assign(assign, now_);
  EXPECT_EQ(Said<AssignFrame>().size(), 1u) << "the same again is not news";
  peer_->OnClosed(absl::UnavailableError("gone"), now_);
  WaitForConnection();
  transport_.written.clear();
  Hear(WelcomeFrame{});
  EXPECT_THAT(Said<AssignFrame>(), ElementsAre(assign));
}

TEST_F(PeerStateTest, AnswersReachTheCoordinatorWithTheirSource) {
  StartUp();
  const auto first = Send(1, RegionId(1)), second = Send(2, RegionId(2));
  ASSERT_EQ(Said<ComputeFrame>().size(), 2u);
  EXPECT_EQ(Said<ComputeFrame>()[0].requests[0]->id, 1u);
  Hear(AnswersFrame{{MakeReply(config_, *second, 2), MakeReply(config_, *first, 1)}});
  ASSERT_EQ(events_.replies.size(), 2u);
  EXPECT_EQ(events_.replies[0]->request_id, 2u);
  EXPECT_EQ(events_.replies[0]->source, 3);
  EXPECT_EQ(events_.replies[0]->compute, 0ns) << "of other threads than the coordinator's";
  EXPECT_FLOAT_EQ(events_.replies[0]->output[0], 2);
  EXPECT_EQ(events_.replies[1]->request_id, 1u);
  EXPECT_THAT(events_.lost, IsEmpty());
  Hear(AnswersFrame{{MakeReply(config_, *first, 1)}});
  EXPECT_EQ(events_.replies.size(), 2u) << "an answer counts once";
  EXPECT_EQ(counters_.requests.Get(), 2);
  EXPECT_EQ(counters_.answers.Get(), 2);
}

TEST_F(PeerStateTest, RequestsOfALayerGoInOneFrame) {
  StartUp();
  peer_->Send({MakeRequest(config_, 1, RegionId(1), 4), MakeRequest(config_, 2, RegionId(2), 4)}, now_);
  ASSERT_EQ(Said<ComputeFrame>().size(), 1u);
  EXPECT_EQ(Said<ComputeFrame>()[0].requests.size(), 2u);
}

TEST_F(PeerStateTest, AnAnswerWithAnErrorIsALossAndTheRegionNoLongerCountsAsHeld) {
  StartUp();
  const auto request = Send(1);
  const auto reply = MakeReply(config_, *request, 1);
  reply->statuses[0] = absl::DataLossError("the tile is damaged");
  Hear(AnswersFrame{{reply}});
  EXPECT_THAT(events_.replies, IsEmpty());
  EXPECT_THAT(events_.lost, ElementsAre(RegionId(1)));
  EXPECT_THAT(events_.reasons[0], HasSubstr("the tile is damaged"));
  EXPECT_FALSE(health_.Holds(RegionId(1)));
  EXPECT_TRUE(health_.Holds(RegionId(2)));
  EXPECT_TRUE(peer_->up());
  Hear(HoldingsFrame{0, {RegionId(1)}, 0, 0, 0, ""});
  EXPECT_TRUE(health_.Holds(RegionId(1))) << "until it says otherwise";
}

TEST_F(PeerStateTest, ARefusedRequestIsALossAndTheRegionNoLongerCountsAsHeld) {
  StartUp();
  Send(1);
  Hear(RefusedFrame{99, RegionId(1), 4, "never asked"});
  EXPECT_TRUE(health_.Holds(RegionId(1)));
  Hear(RefusedFrame{1, RegionId(1), 7, "of another epoch"});
  EXPECT_THAT(events_.lost, ElementsAre(RegionId(1)));
  EXPECT_THAT(events_.reasons[0], HasSubstr("of another epoch"));
  EXPECT_FALSE(health_.Holds(RegionId(1)));
  EXPECT_EQ(counters_.refused.Get(), 1);
}

TEST_F(PeerStateTest, WhatIsCancelledIsNotWaitedFor) {
  StartUp();
  const auto request = Send(1);
  peer_->Cancel(1);
  peer_->Cancel(77);
  ASSERT_EQ(Said<CancelFrame>().size(), 1u);
  EXPECT_THAT(Said<CancelFrame>()[0].ids, ElementsAre(1));
  Hear(AnswersFrame{{MakeReply(config_, *request, 1)}});
  EXPECT_THAT(events_.replies, IsEmpty());
  peer_->OnClosed(absl::OkStatus(), now_);
  EXPECT_THAT(events_.lost, IsEmpty());
}

TEST_F(PeerStateTest, WhenItIsClosedEveryRegionWithOpenRequestsIsLostOnce) {
  StartUp();
  const auto answered = Send(1, RegionId(0));
  Hear(AnswersFrame{{MakeReply(config_, *answered, 1)}});
  Send(2, RegionId(2));
  Send(3, RegionId(1));
  Send(4, RegionId(2));
  peer_->OnClosed(absl::UnavailableError("connection reset"), now_);
  EXPECT_THAT(events_.lost, ElementsAre(RegionId(1), RegionId(2)));
  EXPECT_THAT(downs, ElementsAre("connection reset"));
  EXPECT_FALSE(health_.up());
  EXPECT_EQ(transport_.open, 0);
  events_.lost.clear();
  peer_->OnClosed(absl::UnavailableError("connection reset"), now_);
  EXPECT_THAT(events_.lost, IsEmpty());
  EXPECT_EQ(downs.size(), 1u);
  // What is asked of it meanwhile is lost at once.
  Send(5);
  EXPECT_THAT(events_.lost, ElementsAre(RegionId(1)));
  EXPECT_THAT(Said<ComputeFrame>().size(), 4u);
}

TEST_F(PeerStateTest, ConnectsAgainAfterAWaitThatGrowsWithinItsBounds) {
  peer_->Start(now_);
  std::chrono::milliseconds most = options_.first_wait;
  for (int i = 0; i < 9; ++i) {
    peer_->OnClosed(absl::UnavailableError("refused"), now_);
    const std::chrono::milliseconds waited = WaitForConnection();
    EXPECT_GE(waited, most / 2);
    EXPECT_LE(waited, most);
    most = std::min(2 * most, options_.longest_wait);
  }
  EXPECT_EQ(most, options_.longest_wait);
  EXPECT_EQ(downs.size(), 9u);
  // Once it was up, it waits as little as at first.
  ComeUp();
  peer_->OnClosed(absl::OkStatus(), now_);
  EXPECT_LE(WaitForConnection(), options_.first_wait);
  EXPECT_EQ(transport_.open, 1);
}

TEST_F(PeerStateTest, NodesThatWereLostTogetherDoNotComeBackAtTheSameMoment) {
  std::set<std::chrono::milliseconds> waits;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    peer_ = MakePeer(seed * 1000003);
    peer_->Start(now_);
    for (int i = 0; i < 6; ++i) {
      peer_->OnClosed(absl::UnavailableError("refused"), now_);
      if (i < 5) WaitForConnection();
    }
    waits.insert(WaitForConnection());
  }
  EXPECT_GE(waits.size(), 15u);
}

TEST_F(PeerStateTest, TheNextConnectionGoesToTheAddressOfThen) {
  StartUp();
  peer_->SetAddress("elsewhere:2");
  EXPECT_TRUE(peer_->up());
  peer_->OnClosed(absl::OkStatus(), now_);
  WaitForConnection();
  EXPECT_THAT(transport_.addresses, ElementsAre("host:1", "elsewhere:2"));
}

TEST_F(PeerStateTest, AConnectionWithoutAWelcomeIsGivenUp) {
  peer_->Start(now_);
  Tick(options_.connect - 1ms);
  EXPECT_THAT(downs, IsEmpty());
  Tick(1ms);
  ASSERT_EQ(downs.size(), 1u);
  EXPECT_THAT(downs[0], HasSubstr("host:1"));
  EXPECT_EQ(transport_.open, 0);
}

TEST_F(PeerStateTest, TwoPingsWithoutAnAnswerMakeItSuspectAndSilenceTakesItDown) {
  StartUp();
  Send(1);
  const Time heard = now_;
  Tick(options_.heartbeat);
  EXPECT_EQ(Said<PingFrame>().size(), 1u);
  EXPECT_FALSE(health_.suspect());
  Tick(options_.heartbeat);
  EXPECT_EQ(Said<PingFrame>().size(), 2u);
  EXPECT_TRUE(health_.suspect());
  EXPECT_TRUE(peer_->up());
  while (now_ + options_.heartbeat < heard + options_.silence) Tick(options_.heartbeat);
  EXPECT_TRUE(peer_->up());
  Tick(options_.heartbeat);
  EXPECT_FALSE(peer_->up());
  EXPECT_FALSE(health_.up());
  EXPECT_THAT(events_.lost, ElementsAre(RegionId(1)));
  EXPECT_THAT(downs.at(0), HasSubstr("nothing heard"));
}

TEST_F(PeerStateTest, WhoAnswersPingsStaysUpAndIsNotSuspect) {
  StartUp();
  for (int i = 0; i < 100; ++i) {
    Tick(options_.heartbeat);
    const auto pings = Said<PingFrame>();
    ASSERT_EQ(pings.size(), static_cast<size_t>(i + 1));
    EXPECT_EQ(pings.back().number, static_cast<uint64_t>(i + 1));
    now_ += 1ms;
    Hear(PongFrame{pings.back().number, 1});
    EXPECT_FALSE(health_.suspect());
  }
  EXPECT_TRUE(peer_->up());
  // Heard again after doubt.
  Tick(options_.heartbeat);
  Tick(options_.heartbeat);
  EXPECT_TRUE(health_.suspect());
  now_ += 1ms;
  Hear(PongFrame{1, 1});
  EXPECT_FALSE(health_.suspect());
}

TEST_F(PeerStateTest, WhatIsBeyondTheMostUnansweredBytesIsNotSent) {
  const int64_t bytes = PadTo(config_.d, 64) + 4;  // of a request
  options_.most_unanswered_bytes = 2 * bytes;
  peer_ = MakePeer(1);
  StartUp();
  const auto first = Send(1);
  const auto second = Send(2);
  Send(3);
  EXPECT_EQ(Said<ComputeFrame>().size(), 2u);
  EXPECT_THAT(events_.lost, IsEmpty()) << "the links ask another when their time is over";
  Hear(AnswersFrame{{MakeReply(config_, *first, 1)}});
  Send(4);
  EXPECT_EQ(Said<ComputeFrame>().size(), 3u);
  Send(5);
  EXPECT_EQ(Said<ComputeFrame>().size(), 3u);
  // Cancelling, refusing and losing make room too.
  peer_->Cancel(second->id);
  Send(6);
  EXPECT_EQ(Said<ComputeFrame>().size(), 4u);
  Hear(RefusedFrame{6, RegionId(1), 4, ""});
  Send(7);
  EXPECT_EQ(Said<ComputeFrame>().size(), 5u);
  peer_->OnClosed(absl::OkStatus(), now_);
  WaitForConnection();
  ComeUp();
  Send(8);
  Send(9);
  EXPECT_EQ(Said<ComputeFrame>().size(), 2u);
}

TEST_F(PeerStateTest, OneRequestIsSentHoweverLargeItIs) {
  options_.most_unanswered_bytes = 1;
  peer_ = MakePeer(1);
  StartUp();
  Send(1);
  EXPECT_EQ(Said<ComputeFrame>().size(), 1u);
}

TEST_F(PeerStateTest, AFrameThatIsNoneTakesItDown) {
  StartUp();
  Send(1);
  peer_->OnFrame(FrameBytesOf("no frame"), now_);
  EXPECT_FALSE(peer_->up());
  EXPECT_THAT(events_.lost, ElementsAre(RegionId(1)));
  EXPECT_THAT(downs.at(0), HasSubstr("a frame that does not fit"));
  // And one that only a coordinator says.
  WaitForConnection();
  ComeUp();
  Hear(PingFrame{1});
  EXPECT_FALSE(peer_->up());
  EXPECT_THAT(downs.at(1), HasSubstr("only a coordinator says"));
}

TEST_F(PeerStateTest, TheUsualTimesOfItsAnswersAreKnownToTheLinks) {
  StartUp();
  EXPECT_EQ(health_.Usual(1), 0ns);
  for (uint64_t id = 1; id <= 50; ++id) {
    const auto request = Send(id);
    now_ += 10ms;
    Hear(AnswersFrame{{MakeReply(config_, *request, 1)}});
  }
  EXPECT_GE(health_.Usual(1), 10ms);
  EXPECT_LE(health_.Usual(1), 12ms);
  EXPECT_EQ(health_.Usual(16), 0ns);
  EXPECT_GE(counters_.rtt_p50_ns.Get(), 10'000'000);
  EXPECT_LE(counters_.rtt_p99_ns.Get(), 12'000'000);
}

TEST_F(PeerStateTest, OnceStoppedItDoesNothingMore) {
  StartUp();
  Send(1);
  peer_->Stop();
  EXPECT_FALSE(health_.up());
  EXPECT_EQ(transport_.open, 0);
  Tick(1h);
  Hear(WelcomeFrame{});
  peer_->OnClosed(absl::OkStatus(), now_);
  EXPECT_EQ(transport_.addresses.size(), 1u);
  EXPECT_THAT(downs, IsEmpty());
}

}  // namespace
}  // namespace omni
