#include "cluster/cluster_link.h"

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cluster/testing.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::MakeReply;
using testing::MakeRequest;

using Time = std::chrono::steady_clock::time_point;

const RegionId kRegion(1);

// What a node or this process is asked, as words.
struct Calls {
  std::vector<std::string> log;
  void Add(std::string call) { log.push_back(std::move(call)); }
  std::vector<std::string> Take() { return std::exchange(log, {}); }
};

class FakeNode : public NodeLink {
 public:
  FakeNode(std::string name, int64_t regions, Calls& calls)
      : name_(std::move(name)), health_(regions), calls_(calls) {}
  void Send(RegionRequestPtr request) override { calls_.Add(name_ + " " + std::to_string(request->id)); }
  void Flush() override { calls_.Add(name_ + " flush"); }
  void Prefetch(PrefetchFrame prefetch) override {
    calls_.Add(name_ + " prefetch " + std::to_string(prefetch.experts.size()));
  }
  void Cancel(uint64_t id) override { calls_.Add(name_ + " cancel " + std::to_string(id)); }
  NodeHealth& health() override { return health_; }

 private:
  const std::string name_;
  NodeHealth health_;
  Calls& calls_;
};

class FakeLocal : public RegionLink {
 public:
  explicit FakeLocal(Calls& calls) : calls_(calls) {}
  void Send(RegionRequestPtr request) override { calls_.Add("self " + std::to_string(request->id)); }
  void Flush() override { calls_.Add("self flush"); }
  void Prefetch(LayerId, std::span<const ExpertId> experts, Foresight) override {
    calls_.Add("self prefetch " + std::to_string(experts.size()));
  }
  void Renew() override { calls_.Add("self renew"); }

 private:
  Calls& calls_;
};

// Three nodes: a owns the region, b is its shadow, c holds nothing.
class ClusterLinkTest : public ::testing::Test {
 protected:
  static constexpr int32_t kA = 0, kB = 1, kC = 2;

  ClusterLinkTest() {
    options_.now = [this] { return now_; };
    for (const char* name : {"a", "b", "c"})
      nodes_.push_back(std::make_shared<FakeNode>(name, config_.num_regions(), calls_));
    for (auto& node : nodes_) {
      node->health().SetUp(true);
      node->health().Heard(now_ - 1s);
    }
    Health(kA).SetHolds(kRegion, true);
    Health(kB).SetHolds(kRegion, true);
    Place(kA, kB);
  }

  NodeHealth& Health(int32_t node) { return nodes_[static_cast<size_t>(node)]->health(); }
  void Place(int32_t owner, int32_t shadow) {
    auto placement = std::make_shared<Placement>();
    placement->regions.resize(static_cast<size_t>(config_.num_regions()));
    placement->regions[kRegion.index()] = {1, owner, shadow};
    placement->nodes.assign(nodes_.begin(), nodes_.end());
    routes_.Set(placement);
  }
  HedgeBudget& budget() {
    if (budget_ == nullptr) budget_ = std::make_unique<HedgeBudget>(options_);
    return *budget_;
  }
  const HedgeCounters& counters() { return budget().counters(); }
  ClusterLink& link() {
    if (link_ == nullptr)
      link_ = std::make_unique<ClusterLink>(kRegion, std::make_shared<FakeLocal>(calls_), routes_, budget());
    return *link_;
  }
  // What is asked of whom when the region is asked.
  std::vector<std::string> Ask(int32_t rows = 1) {
    now_ += 1us;
    request_ = MakeRequest(config_, next_id_++, kRegion, 1, {rows});
    link().Send(request_);
    link().Flush();
    return calls_.Take();
  }
  std::vector<std::string> WakeAfter(std::chrono::nanoseconds time) {
    now_ += time;
    link().Wake(now_);
    return calls_.Take();
  }
  std::vector<std::string> AnsweredBy(int32_t source) {
    if (source >= 0) Health(source).Heard(now_);
    const auto reply = MakeReply(config_, *request_, 1);
    reply->source = source;
    link().OnAnswered(*reply);
    return calls_.Take();
  }

  const ModelConfig config_ = testing::TinyConfig();
  Time now_ = Time(1h);
  HedgeOptions options_;
  Calls calls_;
  std::vector<std::shared_ptr<FakeNode>> nodes_;
  Routes routes_;
  std::unique_ptr<HedgeBudget> budget_;
  std::unique_ptr<ClusterLink> link_;
  std::shared_ptr<RegionRequest> request_;
  uint64_t next_id_ = 1;
};

TEST_F(ClusterLinkTest, WithoutAPlacementThisProcessServes) {
  routes_.Set(nullptr);
  link().Send(MakeRequest(config_, 5, kRegion, 1));
  EXPECT_THAT(calls_.Take(), ElementsAre("self 5"));
  EXPECT_EQ(link().WakeTime(), std::nullopt);
  link().Renew();
  EXPECT_THAT(calls_.Take(), ElementsAre("self renew"));
  const std::vector<ExpertId> experts = {config_.ExpertOf(kRegion, 0)};
  link().Prefetch(LayerId(0), experts, Foresight::kGuess);
  EXPECT_THAT(calls_.Take(), ElementsAre("self prefetch 1"));
}

TEST_F(ClusterLinkTest, TheOwnerIsAskedFirst) {
  EXPECT_THAT(Ask(), ElementsAre("a 1", "a flush"));
  EXPECT_THAT(AnsweredBy(kA), IsEmpty());
  EXPECT_EQ(link().WakeTime(), std::nullopt);
  EXPECT_EQ(counters().failovers.Get(), 0);
  EXPECT_EQ(counters().sent.Get(), 0);
  Place(Placement::kSelf, Placement::kNobody);
  EXPECT_THAT(Ask(), ElementsAre("self 2", "self flush"));
  EXPECT_EQ(counters().failovers.Get(), 0);
}

TEST_F(ClusterLinkTest, AnOwnerThatIsDownOrHasNotAllOfItIsPassedOver) {
  Health(kA).SetUp(false);
  EXPECT_THAT(Ask(), ElementsAre("b 1", "b flush"));
  Health(kA).SetUp(true);
  Health(kA).SetHolds(kRegion, false);
  EXPECT_THAT(Ask(), ElementsAre("b 2", "b flush"));
  EXPECT_EQ(counters().failovers.Get(), 2);
  Health(kA).SetHolds(kRegion, true);
  EXPECT_THAT(Ask(), ElementsAre("a 3", "a flush"));
  EXPECT_EQ(counters().failovers.Get(), 2);
}

TEST_F(ClusterLinkTest, WhoeverHoldsItIsAskedWhereOwnerAndShadowCannotBe) {
  Health(kA).SetUp(false);
  Health(kB).SetHolds(kRegion, false);
  Health(kC).SetHolds(kRegion, true);
  EXPECT_THAT(Ask(), ElementsAre("c 1", "c flush"));
}

TEST_F(ClusterLinkTest, ThisProcessIsTheLastResort) {
  for (int32_t node : {kA, kB, kC}) Health(node).SetUp(false);
  EXPECT_THAT(Ask(), ElementsAre("self 1", "self flush"));
  EXPECT_EQ(link().WakeTime(), std::nullopt);
  EXPECT_EQ(counters().failovers.Get(), 1);
  // After all that hold it have been asked.
  Health(kA).SetUp(true);
  Health(kB).SetUp(true);
  EXPECT_THAT(Ask(), ElementsAre("a 2", "a flush"));
  EXPECT_THAT(WakeAfter(100ms), ElementsAre("b 2", "b flush"));
  EXPECT_THAT(WakeAfter(100ms), ElementsAre("self 2", "self flush"));
  EXPECT_EQ(link().WakeTime(), std::nullopt);
  EXPECT_THAT(WakeAfter(100ms), IsEmpty());
}

TEST_F(ClusterLinkTest, ThePresentPlacementCountsForTheNextRequest) {
  EXPECT_THAT(Ask(), ElementsAre("a 1", "a flush"));
  Place(kB, kA);
  EXPECT_THAT(AnsweredBy(kA), IsEmpty());
  EXPECT_THAT(Ask(), ElementsAre("b 2", "b flush"));
}

TEST_F(ClusterLinkTest, WithoutHedgingNobodyElseIsAskedHoweverLongItTakes) {
  options_.enabled = false;
  EXPECT_THAT(Ask(), ElementsAre("a 1", "a flush"));
  EXPECT_EQ(link().WakeTime(), std::nullopt);
  EXPECT_THAT(WakeAfter(100s), IsEmpty());
  // What is down or has lost the region is passed over all the same.
  Health(kA).SetUp(false);
  EXPECT_THAT(Ask(), ElementsAre("b 2", "b flush"));
}

TEST_F(ClusterLinkTest, TheWaitIsSeveralTimesTheUsualWithinBounds) {
  const auto wait = [&](std::optional<std::chrono::nanoseconds> usual, int32_t rows) {
    if (usual.has_value()) Health(kA).SetUsual(static_cast<int64_t>(NodeHealth::Shape(rows)), *usual);
    Ask(rows);
    const auto wake = link().WakeTime();
    AnsweredBy(kA);
    return wake.has_value() ? *wake - now_ : std::chrono::nanoseconds(-1);
  };
  EXPECT_EQ(wait(std::nullopt, 1), 100ms) << "nothing measured";
  EXPECT_EQ(wait(5ms, 1), 15ms);
  EXPECT_EQ(wait(1us, 1), 4ms) << "no less than a scheduler may take";
  EXPECT_EQ(wait(10s, 1), 100ms);
  // Requests of other sizes have their own.
  EXPECT_EQ(wait(7ms, 16), 21ms);
  EXPECT_EQ(wait(std::nullopt, 64), 100ms);
}

TEST_F(ClusterLinkTest, TheShadowIsAskedAfterTheWaitAndNotBefore) {
  Health(kA).SetUsual(0, 5ms);
  Ask();
  EXPECT_THAT(WakeAfter(14999us), IsEmpty());
  EXPECT_THAT(WakeAfter(1us), ElementsAre("b 1", "b flush"));
  EXPECT_EQ(counters().sent.Get(), 1);
}

TEST_F(ClusterLinkTest, TheFirstAnswerCountsAndTheLoserIsCancelled) {
  Health(kA).SetUsual(0, 5ms);
  Ask();
  Health(kA).Heard(now_ + 1ms);  // of something else: it is only slow
  EXPECT_THAT(WakeAfter(15ms), ElementsAre("b 1", "b flush"));
  EXPECT_FALSE(Health(kA).suspect());
  EXPECT_THAT(AnsweredBy(kB), ElementsAre("a cancel 1"));
  EXPECT_EQ(counters().won.Get(), 1);
  EXPECT_EQ(counters().lost.Get(), 0);
  EXPECT_THAT(AnsweredBy(kA), IsEmpty()) << "it is over";

  EXPECT_THAT(Ask(), ElementsAre("a 2", "a flush"));
  Health(kA).Heard(now_ + 1ms);
  EXPECT_THAT(WakeAfter(15ms), ElementsAre("b 2", "b flush"));
  EXPECT_THAT(AnsweredBy(kA), ElementsAre("b cancel 2"));
  EXPECT_EQ(counters().won.Get(), 1);
  EXPECT_EQ(counters().lost.Get(), 1);
  EXPECT_EQ(counters().sent.Get(), 2);
}

TEST_F(ClusterLinkTest, ASilentOwnerIsSuspectAndTheNextRequestGoesToTheShadowAtOnce) {
  Ask();
  EXPECT_THAT(WakeAfter(100ms), ElementsAre("b 1", "b flush"));
  EXPECT_TRUE(Health(kA).suspect());
  // What it still owes is no reason to ask again, should it never come back.
  EXPECT_THAT(AnsweredBy(kB), ElementsAre("a cancel 1"));
  EXPECT_THAT(Ask(), ElementsAre("b 2", "b flush"));
  EXPECT_EQ(counters().failovers.Get(), 1);
  EXPECT_THAT(AnsweredBy(kB), IsEmpty());
  // This process comes before one that is in doubt.
  Health(kB).SetUp(false);
  EXPECT_THAT(Ask(), ElementsAre("self 3", "self flush"));
  AnsweredBy(Placement::kSelf);
  Health(kB).SetUp(true);
  // It is heard again, and is the owner again.
  Health(kA).Heard(now_ + 1ns);
  EXPECT_FALSE(Health(kA).suspect());
  EXPECT_THAT(Ask(), ElementsAre("a 4", "a flush"));
}

TEST_F(ClusterLinkTest, BeyondTheShareMoreQuestionsAreWithheld) {
  options_.burst = 2;
  options_.share = 0.25;
  Health(kA).SetUsual(0, 5ms);
  const auto slow = [&] {
    Ask();
    Health(kA).Heard(now_ + 1ms);
    const bool asked = !WakeAfter(15ms).empty();
    EXPECT_TRUE(asked || link().WakeTime() == now_ + 100ms) << "it is thought of again";
    AnsweredBy(kA);
    return asked;
  };
  int asked = 0;
  for (int i = 0; i < 2; ++i) asked += slow();
  EXPECT_EQ(asked, 2);
  EXPECT_FALSE(slow());
  EXPECT_EQ(counters().withheld.Get(), 1);
  // One in four from then on.
  asked = 0;
  for (int i = 0; i < 40; ++i) asked += slow();
  EXPECT_GE(asked, 9);
  EXPECT_LE(asked, 11);
  EXPECT_EQ(counters().sent.Get(), 2 + asked);
  EXPECT_EQ(counters().withheld.Get(), 1 + 40 - asked);
}

TEST_F(ClusterLinkTest, WhatGoesSilentIsNeverWithheld) {
  options_.burst = 0;
  options_.share = 0;
  Ask();
  EXPECT_THAT(WakeAfter(100ms), ElementsAre("b 1", "b flush"));
  EXPECT_EQ(counters().withheld.Get(), 0);
}

TEST_F(ClusterLinkTest, AnswersToOtherRequestsChangeNothing) {
  Ask();
  auto reply = MakeReply(config_, *MakeRequest(config_, 77, kRegion, 1), 1);
  reply->source = kA;
  link().OnAnswered(*reply);
  EXPECT_TRUE(link().WakeTime().has_value());
  EXPECT_THAT(WakeAfter(100ms), ElementsAre("b 1", "b flush"));
}

TEST_F(ClusterLinkTest, ARequestThatIsGivenUpIsCancelledWithAllThatWereAsked) {
  Ask();
  WakeAfter(100ms);
  now_ += 30s;
  link().Renew();
  EXPECT_THAT(calls_.Take(), ElementsAre("a cancel 1", "b cancel 1"));
  EXPECT_EQ(link().WakeTime(), std::nullopt);
  // Neither has said anything in all that time.
  EXPECT_TRUE(Health(kA).suspect());
  EXPECT_TRUE(Health(kB).suspect());
  EXPECT_THAT(Ask(), ElementsAre("self 2", "self flush"));
  now_ += 30s;
  link().Renew();
  EXPECT_THAT(calls_.Take(), ElementsAre("self renew"));
}

TEST_F(ClusterLinkTest, AShadowThatHasJustBeenAskedIsNotInDoubtWhenTheOwnerIsLost) {
  Ask();
  WakeAfter(100ms);
  now_ += 1ms;
  Health(kA).SetUp(false);
  link().Renew();
  calls_.Take();
  EXPECT_FALSE(Health(kB).suspect());
  EXPECT_THAT(Ask(), ElementsAre("b 2", "b flush"));
}

TEST_F(ClusterLinkTest, TheOwnerIsToldOfWhatMayCome) {
  const std::vector<ExpertId> experts = {config_.ExpertOf(kRegion, 0), config_.ExpertOf(kRegion, 1)};
  link().Prefetch(LayerId(0), experts, Foresight::kGuess);
  EXPECT_THAT(calls_.Take(), ElementsAre("a prefetch 2"));
  Health(kA).SetUp(false);
  link().Prefetch(LayerId(0), experts, Foresight::kGuess);
  EXPECT_THAT(calls_.Take(), IsEmpty());
  Place(Placement::kSelf, kA);
  link().Prefetch(LayerId(0), experts, Foresight::kGuess);
  EXPECT_THAT(calls_.Take(), ElementsAre("self prefetch 2"));
}

}  // namespace
}  // namespace omni
