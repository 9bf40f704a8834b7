#include "cluster/frames.h"

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "omni/cluster/v1/regions.pb.h"
#include "tests/cluster/testing.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

namespace pb = ::omni::cluster::v1;

using testing::Decoded;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MakeReply;
using testing::MakeRequest;

class FramesTest : public ::testing::TestWithParam<ModelConfig> {
 protected:
  template <typename F>
  F RoundTrip(const F& frame) {
    return Decoded<F>(EncodeFrame(frame), config_);
  }

  const ModelConfig config_ = GetParam();
};

// The second's rows are shorter than their padding.
INSTANTIATE_TEST_SUITE_P(Models, FramesTest, ::testing::Values(testing::TinyConfig(), testing::OddConfig()));

TEST_P(FramesTest, HelloAndWelcomeRoundTrip) {
  const HelloFrame hello = RoundTrip(HelloFrame{{7, 9}, {"c"}, 1ull << 60, "hash", 16, "name", "id"});
  EXPECT_EQ(hello.protocols, (ProtocolRange{7, 9}));
  EXPECT_EQ(hello.coordinator.value, "c");
  EXPECT_EQ(hello.term, 1ull << 60);
  EXPECT_EQ(hello.model_hash, "hash");
  EXPECT_EQ(hello.regions, 16u);
  EXPECT_EQ(hello.cluster, "name");
  EXPECT_EQ(hello.cluster_id, "id");
  const WelcomeFrame welcome = RoundTrip(WelcomeFrame{9, {"n"}, 1ull << 50, 64, "1.2.3"});
  EXPECT_EQ(welcome.program, "1.2.3");
  EXPECT_EQ(welcome.protocol, 9u);
  EXPECT_EQ(welcome.node.value, "n");
  EXPECT_EQ(welcome.offered_bytes, 1ull << 50);
  EXPECT_EQ(welcome.threads, 64u);
  EXPECT_EQ(RoundTrip(GoodbyeFrame{"why"}).reason, "why");
  EXPECT_EQ(RoundTrip(GoodbyeFrame{std::string(100'000, 'x')}).reason.size(), 500u) << "it goes into a log";
}

// The bytes of protocol 1 stay what they were: a program of it has nothing else.
TEST_P(FramesTest, AProgramOfProtocolOneReadsAndSaysTheOldestAlone) {
  pb::Frame old;
  pb::Hello& hello = *old.mutable_header()->mutable_hello();
  hello.set_protocol(1);
  hello.set_coordinator("c");
  hello.set_term(5);
  hello.set_model_hash("hash");
  hello.set_regions(16);
  hello.set_cluster("name");
  hello.set_cluster_id("id");
  EXPECT_EQ(EncodeFrame(HelloFrame{{1, 1}, {"c"}, 5, "hash", 16, "name", "id"}), old.SerializeAsString());
  pb::Frame both;
  ASSERT_TRUE(both.ParseFromString(EncodeFrame(HelloFrame{{1, 2}, {"c"}, 5, "hash", 16, "name", "id"})));
  EXPECT_EQ(both.header().hello().protocol(), 1u);
  pb::Frame welcome;
  welcome.mutable_header()->mutable_welcome()->set_protocol(1);
  welcome.mutable_header()->mutable_welcome()->set_node("n");
  EXPECT_EQ(EncodeFrame(WelcomeFrame{1, {"n"}, 0, 0, "1.2.3"}), welcome.SerializeAsString());
}

TEST_P(FramesTest, RequestsRoundTripWithTheirRowsByteForByte) {
  ComputeFrame frame;
  frame.requests = {MakeRequest(config_, 1ull << 63, RegionId(1), 1ull << 40, {1, 3}),
                    MakeRequest(config_, 2, RegionId(0), 5)};
  std::const_pointer_cast<RegionRequest>(frame.requests[0])->attempt = 3;
  const ComputeFrame read = RoundTrip(frame);
  ASSERT_EQ(read.requests.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const RegionRequest &a = *frame.requests[i], &b = *read.requests[i];
    EXPECT_EQ(a.id, b.id);
    EXPECT_EQ(a.region, b.region);
    EXPECT_EQ(a.epoch, b.epoch);
    EXPECT_EQ(a.attempt, b.attempt);
    EXPECT_EQ(a.layer, b.layer);
    ASSERT_EQ(a.experts.size(), b.experts.size());
    for (size_t e = 0; e < a.experts.size(); ++e) {
      EXPECT_EQ(a.experts[e].expert, b.experts[e].expert);
      EXPECT_EQ(a.experts[e].rows, b.experts[e].rows);
    }
    ASSERT_EQ(a.rows, b.rows);
    ASSERT_EQ(a.width, b.width);
    EXPECT_EQ(std::memcmp(a.q(), b.q(), static_cast<size_t>(a.rows * a.width)), 0);
    EXPECT_EQ(std::memcmp(a.scale(), b.scale(), static_cast<size_t>(a.rows) * sizeof(float)), 0);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(b.q()) % 64, 0u);
  }
}

TEST_P(FramesTest, AnswersRoundTripWithTheirErrors) {
  const auto request = MakeRequest(config_, 11, RegionId(1), 4, {2, 1});
  const auto good = MakeReply(config_, *request, 1.5f);
  const auto failed = MakeReply(config_, *MakeRequest(config_, 12, RegionId(0), 4), -3);
  failed->output.clear();
  failed->statuses[0] = absl::DataLossError("the tile is damaged");
  const auto half = MakeReply(config_, *request, 2);
  half->statuses[1] = absl::UnavailableError("");
  half->attempt = 2;
  const AnswersFrame read = RoundTrip(AnswersFrame{{good, failed, half}});
  ASSERT_EQ(read.replies.size(), 3u);
  size_t i = 0;
  for (const auto& reply : {good, failed, half}) {
    const RegionReply& b = *read.replies[i++];
    EXPECT_EQ(reply->request_id, b.request_id);
    EXPECT_EQ(reply->region, b.region);
    EXPECT_EQ(reply->epoch, b.epoch);
    EXPECT_EQ(reply->attempt, b.attempt);
    EXPECT_EQ(reply->compute, b.compute);
    EXPECT_EQ(reply->statuses, b.statuses);
    ASSERT_EQ(reply->output.size(), b.output.size());
    EXPECT_TRUE(b.output.empty() ||
                std::memcmp(reply->output.data(), b.output.data(), b.output.size() * sizeof(float)) == 0);
  }
}

TEST_P(FramesTest, WhatIsForetoldRoundTrips) {
  for (Foresight foresight : {Foresight::kGuess, Foresight::kRegionKnown, Foresight::kKnown}) {
    const PrefetchFrame frame{RegionId(1),
                              LayerId(2),
                              {config_.ExpertOf(RegionId(1), 0), config_.ExpertOf(RegionId(1), 2)},
                              foresight};
    const PrefetchFrame read = RoundTrip(frame);
    EXPECT_EQ(read.region, frame.region);
    EXPECT_EQ(read.layer, frame.layer);
    EXPECT_EQ(read.experts, frame.experts);
    EXPECT_EQ(read.foresight, foresight);
  }
  EXPECT_TRUE(RoundTrip(PrefetchFrame{RegionId(0), LayerId(0), {}, Foresight::kGuess}).experts.empty());
}

TEST_P(FramesTest, WhatIsToBeHeldAndWhatIsHeldRoundTrip) {
  const AssignFrame assign{
      5,
      {{RegionId(0), 3, HoldingRole::kOwner}, {RegionId(1), 1ull << 33, HoldingRole::kTarget}},
      {"a:1", "b:2"}};
  EXPECT_EQ(RoundTrip(assign), assign);
  const AssignFrame shadow{6, {{RegionId(1), 2, HoldingRole::kShadow}}, {}};
  EXPECT_EQ(RoundTrip(shadow), shadow);
  EXPECT_EQ(RoundTrip(AssignFrame()), AssignFrame());
  const HoldingsFrame held =
      RoundTrip(HoldingsFrame{8, {RegionId(0), RegionId(1)}, 2, 1ull << 40, 3, "disk full"});
  EXPECT_EQ(held.revision, 8u);
  EXPECT_THAT(held.regions, ElementsAre(RegionId(0), RegionId(1)));
  EXPECT_EQ(held.filling, 2u);
  EXPECT_EQ(held.missing_bytes, 1ull << 40);
  EXPECT_EQ(held.fetched_bytes, 3u);
  EXPECT_EQ(held.error, "disk full");
}

TEST_P(FramesTest, TheSmallOnesRoundTrip) {
  const RefusedFrame refused = RoundTrip(RefusedFrame{9, RegionId(1), 4, "why"});
  EXPECT_EQ(refused.id, 9u);
  EXPECT_EQ(refused.region, RegionId(1));
  EXPECT_EQ(refused.epoch, 4u);
  EXPECT_EQ(refused.reason, "why");
  EXPECT_THAT(RoundTrip(CancelFrame{{1, 1ull << 63, 0}}).ids, ElementsAre(1, 1ull << 63, 0));
  EXPECT_EQ(RoundTrip(PingFrame{77}).number, 77u);
  const PongFrame pong = RoundTrip(PongFrame{78, 1ull << 44});
  EXPECT_EQ(pong.number, 78u);
  EXPECT_EQ(pong.free_bytes, 1ull << 44);
}

// One of each kind; the small model's, so that all their bytes can be tried.
std::vector<std::string> OneOfEachKind(const ModelConfig& config) {
  const auto request = MakeRequest(config, 11, RegionId(1), 4, {1, 1});
  const auto failed = MakeReply(config, *request, 1);
  failed->statuses[1] = absl::DataLossError("x");
  return {
      EncodeFrame(HelloFrame{{1, 2}, {"c"}, 2, "hash", 16, "name", "id"}),
      EncodeFrame(WelcomeFrame{1, {"n"}, 5, 6}),
      EncodeFrame(ComputeFrame{{request, MakeRequest(config, 12, RegionId(0), 4)}}),
      EncodeFrame(AnswersFrame{{failed, MakeReply(config, *request, 2)}}),
      EncodeFrame(
          PrefetchFrame{RegionId(1), LayerId(2), {config.ExpertOf(RegionId(1), 1)}, Foresight::kKnown}),
      EncodeFrame(AssignFrame{5, {{RegionId(0), 3, HoldingRole::kShadow}}, {"a:1"}}),
      EncodeFrame(HoldingsFrame{8, {RegionId(1)}, 2, 3, 4, "e"}),
      EncodeFrame(RefusedFrame{9, RegionId(1), 4, "why"}),
      EncodeFrame(CancelFrame{{1, 2}}),
      EncodeFrame(PingFrame{7}),
      EncodeFrame(PongFrame{7, 8}),
      EncodeFrame(GoodbyeFrame{"why"}),
  };
}

// The bytes on the heap exactly, so that a sanitizer sees a read past them. Whatever is accepted can be
// written again.
void TryDecode(std::string_view bytes, const ModelConfig& config) {
  const std::vector<uint8_t> exact(bytes.begin(), bytes.end());
  const absl::StatusOr<Frame> frame = DecodeFrame(exact, config);
  if (!frame.ok()) {
    EXPECT_EQ(frame.status().code(), absl::StatusCode::kInvalidArgument) << frame.status();
    EXPECT_FALSE(frame.status().message().empty());
    return;
  }
  const absl::StatusOr<Frame> again = Decoded(EncodeFrame(*frame), config);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->index(), frame->index());
}

TEST_P(FramesTest, CutAnywhereTheyAreReadOrRefused) {
  for (const std::string& bytes : OneOfEachKind(config_)) {
    for (size_t size = 0; size < bytes.size(); ++size) TryDecode(bytes.substr(0, size), config_);
  }
}

TEST_P(FramesTest, WithAnyByteChangedTheyAreReadOrRefused) {
  for (std::string bytes : OneOfEachKind(config_)) {
    // Of rows and answers, whose bytes mean nothing to the reader, the first.
    const size_t most = std::min<size_t>(bytes.size(), 200);
    for (size_t at = 0; at < most; ++at) {
      for (int change : {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff}) {
        bytes[at] = static_cast<char>(bytes[at] ^ change);
        TryDecode(bytes, config_);
        bytes[at] = static_cast<char>(bytes[at] ^ change);
      }
    }
  }
}

TEST_P(FramesTest, CutRowsAndAnswersAreRefused) {
  const std::vector<std::string> frames = OneOfEachKind(config_);
  for (size_t kind : {2u, 3u}) {
    for (size_t less = 1; less < 100; ++less)
      EXPECT_FALSE(Decoded(frames[kind].substr(0, frames[kind].size() - less), config_).ok());
  }
}

TEST_P(FramesTest, TooManyBytesAreRefused) {
  const std::vector<uint8_t> bytes(static_cast<size_t>(kMaxFrameBytes) + 1);
  EXPECT_THAT(std::string(DecodeFrame(bytes, config_).status().message()), HasSubstr("too many bytes"));
}

class FrameChecksTest : public ::testing::Test {
 protected:
  // A frame as it stands in its description.
  static pb::Frame Parsed(const std::string& bytes) {
    pb::Frame frame;
    EXPECT_TRUE(frame.ParseFromString(bytes));
    return frame;
  }
  pb::Frame Compute(const std::vector<int32_t>& rows = {1, 2}) {
    return Parsed(EncodeFrame(ComputeFrame{{MakeRequest(config_, 11, RegionId(1), 4, rows)}}));
  }
  pb::Frame Answers() {
    return Parsed(EncodeFrame(
        AnswersFrame{{MakeReply(config_, *MakeRequest(config_, 11, RegionId(1), 4, {1, 2}), 1)}}));
  }
  absl::Status StatusOf(const pb::Frame& frame) {
    return Decoded(frame.SerializeAsString(), config_).status();
  }
  // The change makes a good frame one that is refused with these words.
  void ExpectRefused(pb::Frame frame, const std::function<void(pb::Frame&)>& change,
                     const std::string& words) {
    EXPECT_TRUE(StatusOf(frame).ok()) << StatusOf(frame);
    change(frame);
    const absl::Status status = StatusOf(frame);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << words;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  }
  static pb::RegionRows& Rows(pb::Frame& f) {
    return *f.mutable_header()->mutable_compute()->mutable_requests(0);
  }
  static pb::RegionAnswer& Answer(pb::Frame& f) {
    return *f.mutable_header()->mutable_answers()->mutable_answers(0);
  }

  const ModelConfig config_ = testing::TinyConfig();
};

TEST_F(FrameChecksTest, RequestsThatDoNotFitTheModelAreRefused) {
  const auto refused = [&](const std::function<void(pb::Frame&)>& change, const std::string& words) {
    ExpectRefused(Compute(), change, words);
  };
  refused([](pb::Frame& f) { f.mutable_header()->mutable_compute()->set_width(128); }, "rows of 128 bytes");
  refused([](pb::Frame& f) { f.mutable_header()->mutable_compute()->set_layer(3); },
          "layer 3 has no experts");
  refused([](pb::Frame& f) { f.mutable_header()->mutable_compute()->set_layer(4); },
          "layer 4 has no experts");
  refused([](pb::Frame& f) { f.mutable_header()->mutable_compute()->clear_requests(); }, "no request");
  refused([](pb::Frame& f) { Rows(f).set_region(16); }, "region 16");
  refused([](pb::Frame& f) { Rows(f).set_region(0); }, "is not of region 0");
  refused([](pb::Frame& f) { Rows(f).set_experts(1, 128); }, "expert 128");
  refused([](pb::Frame& f) { Rows(f).mutable_experts()->SwapElements(0, 1); }, "do not ascend");
  refused([](pb::Frame& f) { Rows(f).set_experts(1, Rows(f).experts(0)); }, "do not ascend");
  refused([](pb::Frame& f) { Rows(f).add_rows(1); }, "do not go together");
  refused([](pb::Frame& f) { Rows(f).clear_experts(), Rows(f).clear_rows(); }, "do not go together");
  refused([](pb::Frame& f) { Rows(f).set_rows(0, 0); }, "number of rows");
  refused([](pb::Frame& f) { Rows(f).set_rows(0, 0xffffffff); }, "number of rows");
  refused([](pb::Frame& f) { Rows(f).set_rows(0, 65535), Rows(f).set_rows(1, 2); }, "number of rows");
  refused([](pb::Frame& f) { Rows(f).set_rows(0, 2); }, "less data");
  refused([](pb::Frame& f) { Rows(f).set_rows(1, 1); }, "more data");
  refused([](pb::Frame& f) { f.mutable_data()->push_back('x'); }, "more data");
  refused([](pb::Frame& f) { f.clear_data(); }, "less data");
}

TEST_F(FrameChecksTest, AnswersThatDoNotFitTheModelAreRefused) {
  const auto refused = [&](const std::function<void(pb::Frame&)>& change, const std::string& words) {
    ExpectRefused(Answers(), change, words);
  };
  refused([](pb::Frame& f) { f.mutable_header()->mutable_answers()->clear_answers(); }, "no answer");
  refused([](pb::Frame& f) { Answer(f).set_region(16); }, "region 16");
  refused([](pb::Frame& f) { Answer(f).set_experts(9); }, "an answer's experts");
  refused([](pb::Frame& f) { Answer(f).set_values(3 * 64 - 1); }, "less data");
  refused([](pb::Frame& f) { Answer(f).set_values(4 * 64); }, "less data");
  refused([](pb::Frame& f) { Answer(f).set_values(uint64_t{1} << 62); }, "less data");
  refused([](pb::Frame& f) { Answer(f).set_values(2 * 64); }, "more data");
  const auto error = [](uint32_t expert, int32_t code) {
    return [=](pb::Frame& f) {
      pb::ExpertError& e = *Answer(f).add_errors();
      e.set_expert(expert), e.set_code(code);
    };
  };
  refused(error(2, 1), "an answer's errors");
  refused(error(0, 0), "an answer's errors");
  refused(error(0, 17), "an answer's errors");
  refused(error(0, -1), "an answer's errors");
}

TEST_F(FrameChecksTest, OtherFramesThatDoNotFitTheModelAreRefused) {
  const ExpertId first = config_.ExpertOf(RegionId(1), 0), second = config_.ExpertOf(RegionId(1), 1);
  const pb::Frame prefetch =
      Parsed(EncodeFrame(PrefetchFrame{RegionId(1), LayerId(2), {first, second}, Foresight::kKnown}));
  const auto p = [](pb::Frame& f) { return f.mutable_header()->mutable_prefetch(); };
  ExpectRefused(
      prefetch, [&](pb::Frame& f) { p(f)->set_region(2); }, "is not of region 2");
  ExpectRefused(
      prefetch, [&](pb::Frame& f) { p(f)->set_region(99); }, "region 99");
  ExpectRefused(
      prefetch, [&](pb::Frame& f) { p(f)->set_layer(3); }, "no experts");
  ExpectRefused(
      prefetch, [&](pb::Frame& f) { p(f)->mutable_experts()->SwapElements(0, 1); }, "not ascend");
  ExpectRefused(
      prefetch, [&](pb::Frame& f) { f.set_data("x"); }, "data where none belongs");

  const pb::Frame assign = Parsed(EncodeFrame(
      AssignFrame{5, {{RegionId(0), 3, HoldingRole::kOwner}, {RegionId(1), 3, HoldingRole::kOwner}}, {}}));
  const auto a = [](pb::Frame& f) { return f.mutable_header()->mutable_assign(); };
  ExpectRefused(
      assign, [&](pb::Frame& f) { a(f)->mutable_regions(1)->set_region(16); }, "region 16");
  ExpectRefused(
      assign, [&](pb::Frame& f) { a(f)->mutable_regions(1)->set_region(0); }, "do not ascend");

  const pb::Frame held = Parsed(EncodeFrame(HoldingsFrame{1, {RegionId(0), RegionId(1)}, 0, 0, 0, ""}));
  const auto h = [](pb::Frame& f) { return f.mutable_header()->mutable_holdings(); };
  ExpectRefused(
      held, [&](pb::Frame& f) { h(f)->set_regions(1, 16); }, "region 16");
  ExpectRefused(
      held, [&](pb::Frame& f) { h(f)->set_regions(1, 0); }, "do not ascend");

  const pb::Frame refused = Parsed(EncodeFrame(RefusedFrame{1, RegionId(0), 0, ""}));
  ExpectRefused(
      refused, [](pb::Frame& f) { f.mutable_header()->mutable_refused()->set_region(16); }, "region 16");
  ExpectRefused(
      refused, [](pb::Frame& f) { f.mutable_header()->clear_refused(); }, "a kind that is not known");
  ExpectRefused(
      refused, [](pb::Frame& f) { f.clear_header(); }, "no header");
}

TEST_F(FrameChecksTest, WhatANewerProgramAddsIsSkipped) {
  // Field 90 of the frame and of what it says, each of bytes.
  const std::string unknown("\xd2\x05\x03new", 6);
  for (const std::string& bytes : OneOfEachKind(config_)) {
    pb::Frame frame = Parsed(bytes);
    pb::Header& header = *frame.mutable_header();
    const google::protobuf::Reflection* reflection = header.GetReflection();
    header.GetReflection()->MutableUnknownFields(&header)->AddLengthDelimited(90, "new");
    header.GetReflection()->MutableUnknownFields(&header)->AddVarint(91, 5);
    std::vector<const google::protobuf::FieldDescriptor*> set;
    reflection->ListFields(header, &set);
    ASSERT_EQ(set.size(), 1u);
    google::protobuf::Message* said = reflection->MutableMessage(&header, set[0]);
    said->GetReflection()->MutableUnknownFields(said)->AddVarint(90, 5);
    const std::string longer = frame.SerializeAsString() + unknown;
    const absl::StatusOr<Frame> read = Decoded(longer, config_), before = Decoded(bytes, config_);
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_TRUE(before.ok()) << before.status();
    EXPECT_EQ(EncodeFrame(*read), EncodeFrame(*before));
    EXPECT_EQ(EncodeFrame(*read), bytes);
  }
}

// Few bytes that would become much memory.
TEST_F(FrameChecksTest, AHeaderOfNothingButEmptyAnswersIsRefused) {
  pb::Frame frame = Answers();
  for (int i = 0; i < 1 << 20; ++i) frame.mutable_header()->mutable_answers()->add_answers();
  EXPECT_THAT(std::string(StatusOf(frame).message()), HasSubstr("a header of"));
}

}  // namespace
}  // namespace omni
