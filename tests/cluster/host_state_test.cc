#include "cluster/host_state.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cluster/testing.h"
#include "tests/testing/random_model.h"
#include "tests/testing/recording_log.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using testing::Encoded;
using testing::FramesOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::MakeReply;
using testing::MakeRequest;

class FakeHostWorld : public HostState::World {
 public:
  void Write(HostState::StreamId stream, std::string frame) override {
    written[stream].push_back(std::move(frame));
  }
  void Close(HostState::StreamId stream, absl::Status status) override { closed[stream] = status; }
  void Compute(RegionRequestPtr request) override { computing.push_back(std::move(request)); }
  void Prefetch(const PrefetchFrame& prefetch) override { foretold.push_back(prefetch.layer); }
  void Hold(const AssignFrame& assign) override { held.push_back(assign.revision); }
  void FlushSoon() override { ++flushes; }
  uint64_t FreeBytes() override { return 4711; }

  std::map<HostState::StreamId, std::vector<std::string>> written;
  std::map<HostState::StreamId, absl::Status> closed;
  std::vector<RegionRequestPtr> computing;
  std::vector<LayerId> foretold;
  std::vector<uint64_t> held;
  int flushes = 0;
};

class HostStateTest : public ::testing::Test {
 protected:
  HostStateTest() { MakeHost({{"n"}, "name", "model", 1 << 20, 4, 100}); }

  void MakeHost(HostOptions options) {
    host_ = std::make_unique<HostState>(config_, std::move(options), counters_, world_);
  }
  HelloFrame Hello(uint64_t term = 5) const {
    return {
        kClusterProtocols, {"c"}, term, "model", static_cast<uint32_t>(config_.num_regions()), "name", id_};
  }
  void Hear(uint64_t stream, const Frame& frame) { host_->OnFrame(stream, Encoded(frame)); }
  void Open(uint64_t stream, uint64_t term = 5) {
    host_->OnOpened(stream);
    Hear(stream, Hello(term));
    EXPECT_FALSE(world_.closed.contains(stream)) << world_.closed[stream];
  }
  // Region 1 is served by epoch 4, region 2 by epoch 6.
  void AssignAndHold(uint64_t stream, uint64_t revision = 9) {
    Hear(stream,
         AssignFrame{
             revision, {{RegionId(1), 4, HoldingRole::kOwner}, {RegionId(2), 6, HoldingRole::kShadow}}, {}});
    host_->OnHeld({0, {RegionId(1), RegionId(2)}, 0, 0, 0, ""});
    world_.written.clear();
  }
  void Ask(uint64_t stream, uint64_t id, RegionId region = RegionId(1), uint64_t epoch = 4) {
    Hear(stream, ComputeFrame{{MakeRequest(config_, id, region, epoch)}});
  }
  template <typename F>
  std::vector<F> Said(uint64_t stream) {
    return FramesOf<F>(world_.written[stream], config_);
  }
  std::string RefusalOf(const HelloFrame& hello) {
    const uint64_t stream = next_stream_++;
    host_->OnOpened(stream);
    Hear(stream, hello);
    EXPECT_THAT(world_.written[stream], IsEmpty()) << "nothing is said to one that is refused";
    const auto closed = world_.closed.find(stream);
    if (closed == world_.closed.end()) return "not refused";
    EXPECT_EQ(closed->second.code(), absl::StatusCode::kFailedPrecondition);
    return std::string(closed->second.message());
  }

  const ModelConfig config_ = testing::TinyConfig();
  FakeHostWorld world_;
  HostCounters counters_;
  std::unique_ptr<HostState> host_;
  uint64_t next_stream_ = 100;
  std::string id_ = "first";  // of the cluster
};

TEST_F(HostStateTest, WelcomesACoordinatorAndSaysWhatItHolds) {
  Open(1);
  const auto welcome = Said<WelcomeFrame>(1);
  ASSERT_EQ(welcome.size(), 1u);
  EXPECT_EQ(welcome[0].protocol, kClusterProtocols.newest);
  EXPECT_EQ(welcome[0].node.value, "n");
  EXPECT_EQ(welcome[0].offered_bytes, 1u << 20);
  EXPECT_EQ(welcome[0].threads, 4u);
  EXPECT_EQ(Said<HoldingsFrame>(1).size(), 1u);
  EXPECT_EQ(host_->term(), 5u);
  EXPECT_EQ(counters_.streams.Get(), 1);
  host_->OnClosed(1, absl::OkStatus());
  EXPECT_EQ(counters_.streams.Get(), 0);
}

TEST_F(HostStateTest, RefusesACoordinatorThatDoesNotFitAndSaysWhatDiffers) {
  const auto change = [&](auto f) {
    HelloFrame hello = Hello();
    f(hello);
    return RefusalOf(hello);
  };
  EXPECT_THAT(change([](HelloFrame& h) {
                h.protocols = {99, 99};
              }),
              HasSubstr("protocol is 99, this node's is 1 to 2"));
  EXPECT_THAT(change([](HelloFrame& h) { h.protocols = {3, 4}; }), HasSubstr("protocol is 3 to 4"));
  EXPECT_THAT(change([](HelloFrame& h) { h.protocols = {0, 0}; }), HasSubstr("protocol is 0"));
  EXPECT_THAT(change([](HelloFrame& h) { h.model_hash = "x"; }),
              HasSubstr("model is x, this node's is model"));
  EXPECT_THAT(change([](HelloFrame& h) { h.regions = 17; }), HasSubstr("number of regions is 17"));
  EXPECT_THAT(change([](HelloFrame& h) { h.cluster = "y"; }), HasSubstr("cluster is y"));
  Open(1, 8);
  EXPECT_THAT(change([](HelloFrame& h) { h.term = 7; }), HasSubstr("term 7 is over"));
  EXPECT_EQ(host_->term(), 8u);
}

TEST_F(HostStateTest, SpeaksTheHighestProtocolThatBothKnow) {
  struct Case {
    ProtocolRange ours, theirs;
    uint32_t spoken;
    std::string program;
  };
  // This program with the one before it, itself, and the one to come; and that one before with this.
  for (const Case& c : {Case{{1, 2}, {1, 1}, 1, ""}, Case{{1, 2}, {1, 2}, 2, "1.2.3"},
                        Case{{1, 2}, {2, 3}, 2, "1.2.3"}, Case{{1, 1}, {1, 2}, 1, ""}}) {
    HostOptions options{{"n"}, "name", "model", 1 << 20, 4, 100};
    options.protocols = c.ours;
    options.program = "1.2.3";
    MakeHost(options);
    HelloFrame hello = Hello();
    hello.protocols = c.theirs;
    const uint64_t stream = next_stream_++;
    host_->OnOpened(stream);
    Hear(stream, hello);
    ASSERT_EQ(Said<WelcomeFrame>(stream).size(), 1u) << world_.closed[stream];
    EXPECT_EQ(Said<WelcomeFrame>(stream)[0].protocol, c.spoken);
    EXPECT_EQ(Said<WelcomeFrame>(stream)[0].program, c.program);
    AssignAndHold(stream);
    Ask(stream, 7);
    EXPECT_EQ(world_.computing.size(), 1u);
    world_.computing.clear();
  }
}

TEST_F(HostStateTest, WithoutAClusterOfItsOwnTheFirstCoordinatorsCounts) {
  MakeHost({{"n"}, "", "model", 1 << 20, 4, 100});
  HelloFrame hello = Hello();
  hello.cluster = "first";
  host_->OnOpened(1);
  Hear(1, hello);
  EXPECT_EQ(Said<WelcomeFrame>(1).size(), 1u);
  hello.cluster = "second";
  EXPECT_THAT(RefusalOf(hello), HasSubstr("cluster is second, this node's is first"));
}

TEST_F(HostStateTest, TheFirstFrameOfAStreamIsAHello) {
  host_->OnOpened(1);
  Hear(1, PingFrame{1});
  ASSERT_TRUE(world_.closed.contains(1));
  EXPECT_THAT(std::string(world_.closed[1].message()), HasSubstr("is to be a hello"));
  EXPECT_THAT(world_.written[1], IsEmpty());
  // What it says afterwards is not heard.
  Hear(1, Hello());
  EXPECT_THAT(world_.written[1], IsEmpty());
}

TEST_F(HostStateTest, BytesThatAreNoFrameAndWhatOnlyANodeSaysEndTheStream) {
  Open(1);
  host_->OnFrame(1, FrameBytesOf("no frame"));
  EXPECT_EQ(world_.closed.at(1).code(), absl::StatusCode::kInvalidArgument);
  Open(2);
  Hear(2, PongFrame{1, 2});
  EXPECT_THAT(std::string(world_.closed.at(2).message()), HasSubstr("only a node says"));
  EXPECT_EQ(counters_.streams.Get(), 0);
  host_->OnFrame(77, Encoded(PingFrame{1}));  // of no stream
}

TEST_F(HostStateTest, WhoIsNotTakenLogsWhyAndEndsTheStream) {
  testing::RecordingLog log;
  Open(1);
  Hear(1, GoodbyeFrame{"the node's protocol is 1, the coordinator's is 2"});
  EXPECT_TRUE(world_.closed.contains(1));
  EXPECT_THAT(log.Messages("not_joined"),
              ElementsAre(HasSubstr("c does not take this node: the node's protocol is 1")));
  world_.written.clear();
  Hear(1, PingFrame{1});
  EXPECT_THAT(world_.written[1], IsEmpty());
}

TEST_F(HostStateTest, AnswersPings) {
  Open(1);
  Hear(1, PingFrame{12});
  ASSERT_EQ(Said<PongFrame>(1).size(), 1u);
  EXPECT_EQ(Said<PongFrame>(1)[0].number, 12u);
  EXPECT_EQ(Said<PongFrame>(1)[0].free_bytes, 4711u);
}

TEST_F(HostStateTest, ComputesWhatIsAskedAndGathersAnswersUntilFlush) {
  Open(1);
  AssignAndHold(1);
  Ask(1, 21);
  Ask(1, 22, RegionId(2), 6);
  ASSERT_EQ(world_.computing.size(), 2u);
  EXPECT_NE(world_.computing[0]->id, world_.computing[1]->id);
  EXPECT_EQ(world_.computing[1]->region, RegionId(2));
  host_->OnReply(MakeReply(config_, *world_.computing[1], 2));
  host_->OnReply(MakeReply(config_, *world_.computing[0], 1));
  EXPECT_EQ(world_.flushes, 1) << "one is enough for both";
  EXPECT_THAT(world_.written[1], IsEmpty());
  host_->Flush();
  const auto answers = Said<AnswersFrame>(1);
  ASSERT_EQ(answers.size(), 1u);
  ASSERT_EQ(answers[0].replies.size(), 2u);
  EXPECT_EQ(answers[0].replies[0]->request_id, 22u);
  EXPECT_FLOAT_EQ(answers[0].replies[0]->output[0], 2);
  EXPECT_EQ(answers[0].replies[1]->request_id, 21u);
  host_->Flush();
  EXPECT_EQ(Said<AnswersFrame>(1).size(), 1u);
  // The next one wants a flush again.
  Ask(1, 23);
  host_->OnReply(MakeReply(config_, *world_.computing[2], 1));
  EXPECT_EQ(world_.flushes, 2);
  EXPECT_EQ(counters_.requests.Get(), 3);
  EXPECT_EQ(counters_.answers.Get(), 3);
}

TEST_F(HostStateTest, TwoStreamsMayUseTheSameNumbers) {
  Open(1);
  AssignAndHold(1);
  Open(2);
  Ask(1, 7);
  Ask(2, 7);
  ASSERT_EQ(world_.computing.size(), 2u);
  EXPECT_NE(world_.computing[0]->id, world_.computing[1]->id);
  host_->OnReply(MakeReply(config_, *world_.computing[1], 2));
  host_->OnReply(MakeReply(config_, *world_.computing[0], 1));
  host_->Flush();
  EXPECT_FLOAT_EQ(Said<AnswersFrame>(1).at(0).replies.at(0)->output[0], 1);
  EXPECT_FLOAT_EQ(Said<AnswersFrame>(2).at(0).replies.at(0)->output[0], 2);
  EXPECT_EQ(Said<AnswersFrame>(1)[0].replies[0]->request_id, 7u);
  EXPECT_EQ(Said<AnswersFrame>(2)[0].replies[0]->request_id, 7u);
}

TEST_F(HostStateTest, AnswersOfAStreamThatHasEndedGoNowhere) {
  Open(1);
  AssignAndHold(1);
  Ask(1, 7);
  host_->OnClosed(1, absl::OkStatus());
  host_->OnReply(MakeReply(config_, *world_.computing.at(0), 1));
  host_->Flush();
  EXPECT_THAT(world_.written[1], IsEmpty());
}

TEST_F(HostStateTest, RefusesRequestsOfAnotherEpoch) {
  Open(1);
  Ask(1, 20);
  AssignAndHold(1);
  Ask(1, 21, RegionId(1), 3);
  Ask(1, 22, RegionId(1), 5);
  Ask(1, 23, RegionId(3), 4);
  EXPECT_THAT(world_.computing, IsEmpty());
  const auto refused = Said<RefusedFrame>(1);
  ASSERT_EQ(refused.size(), 3u);
  EXPECT_EQ(refused[0].id, 21u);
  EXPECT_EQ(refused[0].region, RegionId(1));
  EXPECT_EQ(refused[0].epoch, 4u);
  EXPECT_THAT(refused[0].reason, HasSubstr("served here by epoch 4, and the request is of epoch 3"));
  EXPECT_EQ(refused[2].epoch, 0u) << "not at all";
  EXPECT_EQ(counters_.refused.Get(), 4);
}

TEST_F(HostStateTest, RefusesRegionsThatAreNotAllHereYet) {
  Open(1);
  AssignAndHold(1);
  host_->OnHeld({0, {RegionId(2)}, 1, 100, 0, ""});
  Hear(1, ComputeFrame{{MakeRequest(config_, 21, RegionId(1), 4), MakeRequest(config_, 22, RegionId(2), 6)}});
  ASSERT_EQ(Said<RefusedFrame>(1).size(), 1u);
  EXPECT_EQ(Said<RefusedFrame>(1)[0].id, 21u);
  EXPECT_THAT(Said<RefusedFrame>(1)[0].reason, HasSubstr("not all here yet"));
  ASSERT_EQ(world_.computing.size(), 1u);
  EXPECT_EQ(world_.computing[0]->region, RegionId(2));
}

TEST_F(HostStateTest, RefusesMoreThanItMayHaveOpen) {
  MakeHost({{"n"}, "name", "model", 1 << 20, 4, 2});
  Open(1);
  AssignAndHold(1);
  for (uint64_t id = 1; id <= 3; ++id) Ask(1, id);
  EXPECT_EQ(world_.computing.size(), 2u);
  ASSERT_EQ(Said<RefusedFrame>(1).size(), 1u);
  EXPECT_EQ(Said<RefusedFrame>(1)[0].id, 3u);
  host_->OnReply(MakeReply(config_, *world_.computing[0], 1));
  Ask(1, 4);
  EXPECT_EQ(world_.computing.size(), 3u);
  // What is cancelled is computed nevertheless, and so counts until it is.
  Hear(1, CancelFrame{{2, 4}});
  Ask(1, 5);
  EXPECT_EQ(world_.computing.size(), 3u);
  host_->OnReply(MakeReply(config_, *world_.computing[1], 1));
  Ask(1, 6);
  EXPECT_EQ(world_.computing.size(), 4u);
}

TEST_F(HostStateTest, WhatIsCancelledIsNotAnswered) {
  Open(1);
  AssignAndHold(1);
  Open(2);
  Ask(1, 7);
  Ask(2, 7);
  Ask(1, 8);
  Hear(1, CancelFrame{{7, 99}});
  for (const RegionRequestPtr& request : world_.computing) host_->OnReply(MakeReply(config_, *request, 1));
  host_->Flush();
  ASSERT_EQ(Said<AnswersFrame>(1).size(), 1u);
  ASSERT_EQ(Said<AnswersFrame>(1)[0].replies.size(), 1u);
  EXPECT_EQ(Said<AnswersFrame>(1)[0].replies[0]->request_id, 8u);
  EXPECT_EQ(Said<AnswersFrame>(2).size(), 1u) << "the other stream's 7 is another";
  EXPECT_EQ(counters_.cancelled.Get(), 1);
}

// As many numbers as go in a frame against as many requests as may be open: each costs one look, or this
// takes a minute.
TEST_F(HostStateTest, AFrameThatCancelsAllThatItCanNameEndsAtOnce) {
  MakeHost({{"n"}, "name", "model", 1 << 20, 4, 4096});
  Open(1);
  AssignAndHold(1);
  for (uint64_t id = 1; id <= 4096; ++id) Ask(1, id);
  ASSERT_EQ(world_.computing.size(), 4096u);
  CancelFrame cancel;
  for (uint64_t id = 0; id < 250'000; ++id) cancel.ids.push_back(5000 + id % 10'000);
  for (uint64_t id = 2; id <= 4096; ++id) cancel.ids.push_back(id);
  Hear(1, cancel);
  EXPECT_EQ(counters_.cancelled.Get(), 4095);
  for (const RegionRequestPtr& request : world_.computing) host_->OnReply(MakeReply(config_, *request, 1));
  host_->Flush();
  ASSERT_EQ(Said<AnswersFrame>(1).size(), 1u);
  EXPECT_EQ(Said<AnswersFrame>(1)[0].replies.size(), 1u);
}

TEST_F(HostStateTest, ANumberThatIsUsedTwiceIsCancelledOnce) {
  Open(1);
  AssignAndHold(1);
  Ask(1, 7);
  Ask(1, 7);
  Hear(1, CancelFrame{{7, 7}});
  EXPECT_EQ(counters_.cancelled.Get(), 1);
  for (const RegionRequestPtr& request : world_.computing) host_->OnReply(MakeReply(config_, *request, 1));
  Hear(1, CancelFrame{{7}});
  EXPECT_EQ(counters_.cancelled.Get(), 1);
}

TEST_F(HostStateTest, ACoordinatorOfALaterTermTakesOver) {
  Open(1, 5);
  AssignAndHold(1, 900);
  Open(2, 6);
  EXPECT_FALSE(world_.closed.contains(1));
  Ask(1, 7);
  ASSERT_EQ(Said<RefusedFrame>(1).size(), 1u);
  EXPECT_THAT(Said<RefusedFrame>(1)[0].reason, HasSubstr("a later term"));
  Hear(1, PrefetchFrame{RegionId(1), LayerId(0), {}, Foresight::kGuess});
  EXPECT_THAT(world_.foretold, IsEmpty());
  // What the one before assigned is over, and what it assigns now is not done.
  Ask(2, 8);
  EXPECT_EQ(Said<RefusedFrame>(2).size(), 1u);
  Hear(1, AssignFrame{901, {{RegionId(1), 4, HoldingRole::kOwner}}, {}});
  EXPECT_THAT(world_.held, ElementsAre(900));
  // Its placement's revisions may be counted anew.
  AssignAndHold(2, 3);
  EXPECT_THAT(world_.held, ElementsAre(900, 3));
  Ask(2, 9);
  EXPECT_EQ(world_.computing.size(), 1u);
  Hear(2, PrefetchFrame{RegionId(1), LayerId(0), {}, Foresight::kGuess});
  EXPECT_EQ(world_.foretold.size(), 1u);
}

TEST_F(HostStateTest, ACoordinatorThatLostItsRecordsIsObeyedOnceTheNodeHasJoinedItAgain) {
  Open(1, 900);
  AssignAndHold(1, 2'000'000);
  HelloFrame anew = Hello(7);
  anew.cluster_id = "second";
  EXPECT_THAT(RefusalOf(anew), HasSubstr("has the id second, and this node has joined the one of id first"));
  host_->OnJoined("name", "second");
  // Whoever led the lost cluster leads this node no more, however high its term is.
  EXPECT_THAT(std::string(world_.closed.at(1).message()), HasSubstr("has the id first"));
  Ask(1, 7);
  EXPECT_THAT(world_.computing, IsEmpty());
  EXPECT_THAT(RefusalOf(Hello(901)), HasSubstr("has the id first, and this node has joined"));
  // Terms and revisions count anew, and what was assigned is over.
  id_ = "second";
  Open(2, 7);
  EXPECT_EQ(host_->term(), 7u);
  Ask(2, 8);
  ASSERT_EQ(Said<RefusedFrame>(2).size(), 1u);
  EXPECT_EQ(Said<RefusedFrame>(2)[0].epoch, 0u);
  AssignAndHold(2, 3);
  EXPECT_THAT(world_.held, ElementsAre(2'000'000, 3));
  Ask(2, 9);
  EXPECT_EQ(world_.computing.size(), 1u);
  // Within the cluster an older term is over, as ever.
  EXPECT_THAT(RefusalOf(Hello(6)), HasSubstr("term 6 is over"));
}

TEST_F(HostStateTest, JoiningTheSameClusterAgainChangesNothing) {
  Open(1, 5);
  AssignAndHold(1);
  host_->OnJoined("name", "first");
  EXPECT_FALSE(world_.closed.contains(1));
  Ask(1, 7);
  EXPECT_EQ(world_.computing.size(), 1u);
  EXPECT_THAT(RefusalOf(Hello(4)), HasSubstr("term 4 is over"));
}

TEST_F(HostStateTest, ACoordinatorMayComeBeforeTheWordThatTheNodeHasJoined) {
  Open(1, 5);
  host_->OnJoined("name", "first");
  EXPECT_FALSE(world_.closed.contains(1));
  EXPECT_EQ(host_->term(), 5u);
}

TEST_F(HostStateTest, CountsWhatIsHeardOfWhoeverItObeys) {
  Open(1, 5);
  Hear(1, PingFrame{1});
  EXPECT_EQ(counters_.heard.Get(), 1);
  Open(2, 6);
  Hear(1, PingFrame{2});
  EXPECT_EQ(counters_.heard.Get(), 1) << "its term is over";
  Hear(2, PingFrame{3});
  EXPECT_EQ(counters_.heard.Get(), 2);
}

TEST_F(HostStateTest, AnAssignmentOlderThanTheLastIsIgnored) {
  Open(1);
  AssignAndHold(1, 9);
  Hear(1, AssignFrame{8, {}, {}});
  EXPECT_THAT(world_.held, ElementsAre(9));
  Ask(1, 7);
  EXPECT_EQ(world_.computing.size(), 1u);
  Hear(1, AssignFrame{9, {{RegionId(1), 5, HoldingRole::kOwner}}, {"a:1"}});
  EXPECT_THAT(world_.held, ElementsAre(9, 9));
  EXPECT_EQ(Said<HoldingsFrame>(1).back().revision, 9u);
}

TEST_F(HostStateTest, SaysWhatItHoldsWheneverThatChanges) {
  Open(1);
  Hear(1, AssignFrame{9, {{RegionId(1), 4, HoldingRole::kOwner}}, {}});
  world_.written.clear();
  Open(2, 6);
  host_->OnOpened(3);  // no hello yet
  world_.written.clear();
  host_->OnHeld({0, {RegionId(1)}, 2, 30, 40, "disk full"});
  const auto said = Said<HoldingsFrame>(2);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_THAT(said[0].regions, ElementsAre(RegionId(1)));
  EXPECT_EQ(said[0].revision, 9u);
  EXPECT_EQ(said[0].filling, 2u);
  EXPECT_EQ(said[0].missing_bytes, 30u);
  EXPECT_EQ(said[0].fetched_bytes, 40u);
  EXPECT_EQ(said[0].error, "disk full");
  EXPECT_THAT(world_.written[1], IsEmpty()) << "a coordinator whose term is over";
  EXPECT_THAT(world_.written[3], IsEmpty());
  EXPECT_THAT(host_->held(), ElementsAre(RegionId(1)));
}

}  // namespace
}  // namespace omni
