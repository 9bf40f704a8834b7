#include "actors/coordinator_state.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "actors/region_state.h"
#include "tests/actors/coordinator_fixture.h"
#include "tests/actors/testing.h"

namespace omni {
namespace {

using omni::testing::CoordinatorTest;
using omni::testing::MakeRequest;
using omni::testing::PlainLoop;
using omni::testing::TinyModel;
using ::testing::HasSubstr;

TEST_F(CoordinatorTest, StepsUntilTheSessionIsOverAndThenRests) {
  const GenerateRequest request = MakeRequest(tiny_, 20, 6, 1);
  auto channel = Submit(request);
  RunAll();
  auto end = End(*channel);
  ASSERT_TRUE(end.has_value() && end->ok());
  EXPECT_EQ((*end)->tokens, PlainLoop(tiny_, request));
  EXPECT_EQ(counters_.mixed.steps.Get(), 3);  // 8 + 8 + 4 rows
  EXPECT_EQ(counters_.decode.steps.Get(), 5);
  EXPECT_EQ(world_.steps, 0);
  EXPECT_EQ(counters_.active.Get(), 0);
}

TEST_F(CoordinatorTest, DecodesOthersBesideALongPrompt) {
  auto short_one = Submit(MakeRequest(tiny_, 1, 4, 1));
  StepOnce();
  auto long_one = Submit(MakeRequest(tiny_, 40, 1, 2));
  const int64_t rows = counters_.mixed.rows.Get();
  StepOnce();
  // One row decodes, and the prompt beside it gets no more than its bound.
  EXPECT_EQ(counters_.mixed.rows.Get() - rows, 1 + 2);
  StepOnce();
  StepOnce();
  EXPECT_TRUE(End(*short_one).has_value());
  EXPECT_FALSE(End(*long_one).has_value());
  RunAll();
  EXPECT_TRUE(End(*long_one).has_value());
}

TEST_F(CoordinatorTest, PromptsShareAStep) {
  auto a = Submit(MakeRequest(tiny_, 30, 1, 1));
  auto b = Submit(MakeRequest(tiny_, 3, 1, 2));
  StepOnce();
  StepOnce();
  EXPECT_TRUE(End(*b).has_value());
  EXPECT_FALSE(End(*a).has_value());
}

TEST_F(CoordinatorTest, RefusesMoreThanTheQueueHolds) {
  std::vector<std::shared_ptr<SessionChannel>> channels;
  for (uint64_t i = 0; i < 3; ++i) channels.push_back(Submit(MakeRequest(tiny_, 2, 2, i)));
  auto end = End(*channels[2]);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(End(*channels[1]).has_value());
}

TEST_F(CoordinatorTest, SendsTheJobOfADeadRegionAgain) {
  const GenerateRequest request = MakeRequest(tiny_, 1, 2, 3);
  auto channel = Submit(request);
  state_.Step();
  const RegionRequestPtr lost = world_.requests.front();
  world_.requests.pop_front();
  state_.OnLost(lost->region, "killed");
  ASSERT_EQ(world_.requests.size(), 1u);
  EXPECT_EQ(world_.requests.front()->attempt, 2);
  EXPECT_NE(world_.requests.front()->id, lost->id);
  EXPECT_THAT(world_.renewed, ::testing::ElementsAre(lost->region));
  while (!world_.requests.empty()) Serve();
  RunAll();
  auto end = End(*channel);
  ASSERT_TRUE(end.has_value() && end->ok());
  EXPECT_EQ((*end)->tokens, PlainLoop(tiny_, request));
}

TEST_F(CoordinatorTest, ReplacesADeadRegionThatHadNothingToDo) {
  state_.OnLost(RegionId(3), "killed");
  EXPECT_THAT(world_.renewed, ::testing::ElementsAre(RegionId(3)));
  EXPECT_TRUE(world_.requests.empty());
}

TEST_F(CoordinatorTest, IgnoresTheAnswerOfAnAttemptItHasGivenUp) {
  const GenerateRequest request = MakeRequest(tiny_, 1, 3, 4);
  auto channel = Submit(request);
  state_.Step();
  const RegionReplyPtr late = region_.Start(world_.requests.front(), nullptr);
  world_.requests.pop_front();
  state_.OnLost(late->region, "killed");
  state_.OnReply(*late);
  ASSERT_EQ(world_.requests.size(), 1u);  // the second attempt is still awaited: the layer is not over
  while (!world_.requests.empty()) Serve();
  state_.OnReply(*late);
  RunAll();
  auto end = End(*channel);
  ASSERT_TRUE(end.has_value() && end->ok());
  EXPECT_EQ((*end)->tokens, PlainLoop(tiny_, request));
}

TEST_F(CoordinatorTest, AsksAgainWhenNoAnswerComesInTime) {
  const GenerateRequest request = MakeRequest(tiny_, 1, 3, 5);
  auto channel = Submit(request);
  state_.Step();
  const RegionRequestPtr silent = world_.requests.front();
  world_.requests.clear();
  state_.OnTick(CoordinatorState::Clock::now());
  EXPECT_TRUE(world_.requests.empty());  // there is time left
  state_.OnTick(CoordinatorState::Clock::now() + std::chrono::hours(1));
  ASSERT_EQ(world_.requests.size(), 1u);
  EXPECT_EQ(counters_.timeouts.Get(), 1);
  EXPECT_THAT(world_.renewed, ::testing::ElementsAre(silent->region));
  EXPECT_EQ(world_.requests.front()->attempt, 2);
  while (!world_.requests.empty()) Serve();
  state_.OnReply(*region_.Start(silent, nullptr));  // too late to count
  RunAll();
  EXPECT_EQ((*End(*channel))->tokens, PlainLoop(tiny_, request));
}

TEST_F(CoordinatorTest, LinksThatWouldAskAnotherAreWokenWhenTheyWantToBe) {
  using Clock = CoordinatorState::Clock;
  const Clock::time_point first = Clock::now() + std::chrono::hours(1),
                          second = first + std::chrono::hours(1);
  world_.wake_time = first;
  Submit(MakeRequest(tiny_, 1, 2, 5));
  state_.Step();
  ASSERT_EQ(world_.requests.size(), 1u);
  const RegionRequestPtr asked = world_.requests.front();
  EXPECT_THAT(world_.wakes, ::testing::ElementsAre(first));
  // Only whoever is asked, and then again when it wants to be.
  world_.wake_time = second;
  state_.OnWake(first);
  EXPECT_THAT(world_.woken, ::testing::ElementsAre(asked->region));
  EXPECT_THAT(world_.wakes, ::testing::ElementsAre(first, second));
  // One timer is enough for the layers that follow.
  while (!world_.requests.empty()) Serve();
  EXPECT_THAT(world_.answered, ::testing::Contains(asked->id));
  EXPECT_EQ(world_.wakes.size(), 2u);
  // Nothing is asked: nobody is woken, and no timer set.
  world_.woken.clear();
  state_.OnWake(second);
  EXPECT_TRUE(world_.woken.empty());
  EXPECT_EQ(world_.wakes.size(), 2u);
}

TEST_F(CoordinatorTest, ARequestThatIsSentAgainIsWatchedAgain) {
  using Clock = CoordinatorState::Clock;
  Submit(MakeRequest(tiny_, 1, 2, 5));
  state_.Step();
  EXPECT_TRUE(world_.wakes.empty());
  const Clock::time_point wake = Clock::now() + std::chrono::hours(3);
  world_.wake_time = wake;
  state_.OnTick(Clock::now() + std::chrono::hours(1));
  EXPECT_EQ(world_.requests.back()->attempt, 2);
  EXPECT_THAT(world_.wakes, ::testing::ElementsAre(wake));
}

TEST_F(CoordinatorTest, ARequestKeepsItsRowsWhateverBecomesOfTheBatch) {
  Submit(MakeRequest(tiny_, 8, 3, 6));
  state_.Step();
  const RegionRequestPtr request = world_.requests.front();
  const RegionReplyPtr before = region_.Start(request, nullptr);
  state_.Abort(absl::InternalError("broken"));
  world_.requests.clear();
  Submit(MakeRequest(tiny_, 8, 3, 7));
  state_.Step();
  EXPECT_EQ(region_.Start(request, nullptr)->output, before->output);
}

TEST_F(CoordinatorTest, ARegionThatMovesIsAskedAgainAndItsOldOwnersAnswerDoesNotCount) {
  const GenerateRequest request = MakeRequest(tiny_, 1, 3, 4);
  auto channel = Submit(request);
  state_.Step();
  const RegionRequestPtr old = world_.requests.front();
  world_.requests.clear();
  state_.OnMoved(old->region, old->epoch + 1);
  ASSERT_EQ(world_.requests.size(), 1u);
  EXPECT_EQ(world_.requests.front()->epoch, old->epoch + 1);
  EXPECT_EQ(world_.requests.front()->attempt, 1);  // nobody failed
  state_.OnReply(*region_.Start(old, nullptr));
  EXPECT_EQ(world_.requests.size(), 1u);  // the layer is not over
  state_.OnMoved(old->region, old->epoch);
  EXPECT_EQ(world_.requests.size(), 1u);  // news of before
  while (!world_.requests.empty()) Serve();
  RunAll();
  EXPECT_EQ((*End(*channel))->tokens, PlainLoop(tiny_, request));
  EXPECT_EQ(counters_.moves.Get(), 1);
}

TEST_F(CoordinatorTest, ACancelledPromptEndsItsStep) {
  auto channel = Submit(MakeRequest(tiny_, 8, 3, 7));
  state_.Step();
  state_.Cancel(SessionId(1));
  ASSERT_TRUE(End(*channel).has_value());
  while (!world_.requests.empty()) Serve();
  RunAll();
  EXPECT_EQ(counters_.mixed.steps.Get() + counters_.decode.steps.Get(), 0);
  EXPECT_EQ(counters_.active.Get(), 0);
}

TEST_F(CoordinatorTest, WhoIsCancelledWhileItWaitsForTheLastStepOfOthersIsNotCountedAnyMore) {
  std::vector<std::shared_ptr<SessionChannel>> channels;
  for (uint64_t i = 0; i < 2; ++i) channels.push_back(Submit(MakeRequest(tiny_, 2, 9, i)));
  StepOnce();
  for (uint64_t i = 2; i < 4; ++i) channels.push_back(Submit(MakeRequest(tiny_, 2, 9, i)));
  ASSERT_GT(world_.steps, 0);
  --world_.steps;
  state_.Step();
  EXPECT_EQ(counters_.active.Get(), 3);
  EXPECT_EQ(counters_.queued.Get(), 1);
  for (uint64_t id = 1; id <= 4; ++id) state_.Cancel(SessionId(id));
  while (!world_.requests.empty()) Serve();
  RunAll();
  EXPECT_EQ(counters_.active.Get(), 0);
  EXPECT_EQ(counters_.queued.Get(), 0);
}

TEST_F(CoordinatorTest, AbortFailsWhatRunsAndServesWhatComes) {
  auto first = Submit(MakeRequest(tiny_, 8, 3, 8));
  state_.Step();
  world_.requests.clear();
  state_.Abort(absl::InternalError("broken"));
  EXPECT_EQ(End(*first)->status().message(), "broken");
  const GenerateRequest request = MakeRequest(tiny_, 5, 3, 9);
  auto second = Submit(request);
  world_.steps = std::max(world_.steps, 1);
  RunAll();
  auto end = End(*second);
  ASSERT_TRUE(end.has_value() && end->ok());
  EXPECT_EQ((*end)->tokens, PlainLoop(tiny_, request));
}

TEST_F(CoordinatorTest, RefusesSessionsAfterShutdown) {
  state_.Shutdown();
  auto channel = Submit(MakeRequest(tiny_, 2, 2, 1));
  EXPECT_EQ(End(*channel)->status().code(), absl::StatusCode::kUnavailable);
}

class GuessTest : public CoordinatorTest {
 protected:
  static CoordinatorOptions Guessing() {
    CoordinatorOptions options = SmallOptions();
    options.predict_ahead = 2;
    return options;
  }
  explicit GuessTest(const ModelConfig& config = testing::TinyConfig())
      : CoordinatorTest(Guessing(), config) {}

  // Of layers that experts were announced for; letting go of a guess is no announcement.
  std::vector<std::pair<LayerId, std::vector<ExpertId>>> Announced() const {
    auto announced = world_.expected;
    std::erase_if(announced, [](const auto& e) { return e.second.empty(); });
    return announced;
  }
  std::vector<std::pair<LayerId, std::vector<ExpertId>>> Announced(Foresight foresight) const {
    std::vector<std::pair<LayerId, std::vector<ExpertId>>> announced;
    for (size_t i = 0; i < world_.expected.size(); ++i) {
      if (world_.foresight[i] == foresight && !world_.expected[i].second.empty())
        announced.push_back(world_.expected[i]);
    }
    return announced;
  }
};

// An expert that the router did not choose.
class Elsewhere : public RoutePolicy {
 public:
  ExpertId Choose(const RouteChoice& choice) override {
    return ExpertId(static_cast<int32_t>((choice.nearest.value + 1 + choice.layer.value) % choice.experts));
  }
};

TEST_F(GuessTest, TheNextTwoExpertLayersAreAnnounced) {
  auto channel = Submit(MakeRequest(tiny_, 1, 1, 1));
  StepOnce();
  const ModelConfig& config = tiny_.model.config();
  std::vector<int32_t> expert_layers;
  for (int32_t l = 0; l < config.layers; ++l) {
    if (!config.IsAttention(l)) expert_layers.push_back(l);
  }
  ASSERT_GE(expert_layers.size(), 3u);
  const auto announced = Announced();
  ASSERT_GE(announced.size(), 2u);
  EXPECT_EQ(announced[0].first.value, expert_layers[1]);
  EXPECT_EQ(announced[1].first.value, expert_layers[2]);
  EXPECT_EQ(announced[0].second.size(), 1u);
  EXPECT_EQ(counters_.predicted[0].Get(), static_cast<int64_t>(expert_layers.size()) - 1);
  EXPECT_EQ(counters_.predicted[1].Get(), static_cast<int64_t>(expert_layers.size()) - 2);
}

TEST_F(GuessTest, GuessesThatAreWrongTooOftenAreCountedButNotAnnounced) {
  Elsewhere policy;
  GenerateRequest request = MakeRequest(tiny_, 1, 400, 1);
  request.route_policy = &policy;
  auto channel = Submit(request);
  RunAll();
  const int64_t guesses = counters_.predicted[0].Get();
  ASSERT_GT(guesses, 400);
  EXPECT_LT(counters_.predicted_right[0].Get(), guesses / 4);
  EXPECT_LT(static_cast<int64_t>(Announced().size()), guesses / 2);
  EXPECT_GT(Announced().size(), 10u);
}

class KnownRoutesTest : public GuessTest {
 protected:
  KnownRoutesTest() : GuessTest(testing::AddressConfig()) {}
};

TEST_F(KnownRoutesTest, EveryLayersExpertIsAnnouncedInOrderBeforeTheFirstIsAsked) {
  const GenerateRequest request = MakeRequest(tiny_, 1, 12, 1);
  auto channel = Submit(request);
  const ModelConfig& config = tiny_.model.config();
  int foretold = 0;
  std::vector<std::pair<LayerId, std::vector<ExpertId>>> regions;
  while (world_.steps > 0) {
    world_.expected.clear();
    world_.foresight.clear();
    --world_.steps;
    state_.Step();
    std::vector<std::pair<LayerId, std::vector<ExpertId>>> asked;
    const auto announced = Announced(Foresight::kKnown);
    while (!world_.requests.empty()) {
      const RegionRequestPtr next = world_.requests.front();
      asked.push_back({next->layer, {next->experts[0].expert}});
      // A layer knows the next token's region when it is over, and not before.
      EXPECT_EQ(Announced(Foresight::kRegionKnown).size(), asked.size());
      Serve();
    }
    EXPECT_EQ(announced, asked);
    for (size_t i = 0; i < std::min(regions.size(), asked.size()); ++i) {
      EXPECT_EQ(regions[i].first, asked[i].first);
      EXPECT_EQ(config.RegionOf(regions[i].second[0]), config.RegionOf(asked[i].second[0]));
      EXPECT_EQ(config.IndexInRegion(regions[i].second[0]), 0);
    }
    foretold += static_cast<int>(regions.size());
    regions = Announced(Foresight::kRegionKnown);
    EXPECT_TRUE(asked.empty() || asked.size() == static_cast<size_t>(config.layers - config.layers / 4));
  }
  EXPECT_EQ((*End(*channel))->tokens, PlainLoop(tiny_, request));
  EXPECT_EQ(counters_.predicted[0].Get(), 0);
  EXPECT_GE(foretold, 11 * 3);
}

// Knows every layer's expert when its token starts, whatever the router chooses.
class KnowsAtStart : public RoutePolicy {
 public:
  std::optional<ExpertId> KnownAtStart(LayerId layer, int64_t position) override {
    return ExpertId(static_cast<int32_t>((7 * position + layer.value) % 8));
  }
  ExpertId Choose(const RouteChoice& choice) override { return *KnownAtStart(choice.layer, choice.position); }
  std::optional<ExpertId> KnownNext(LayerId layer, int64_t position) override {
    return KnownAtStart(layer, position);
  }
};

// Of a model whose routers know nothing before.
TEST_F(CoordinatorTest, WhatAPolicyKnowsAtTheStartIsAnnouncedForAllLayersInOrder) {
  KnowsAtStart policy;
  GenerateRequest request = MakeRequest(tiny_, 1, 5, 1);
  request.route_policy = &policy;
  auto channel = Submit(request);
  int announced = 0;
  std::vector<std::pair<LayerId, std::vector<ExpertId>>> next;
  while (world_.steps > 0) {
    world_.expected.clear();
    --world_.steps;
    state_.Step();
    std::vector<std::pair<LayerId, std::vector<ExpertId>>> known = world_.expected, asked;
    std::erase_if(known, [](const auto& e) { return e.second.empty(); });
    while (!world_.requests.empty()) {
      const RegionRequestPtr request_now = world_.requests.front();
      asked.push_back({request_now->layer, {request_now->experts[0].expert}});
      Serve();
    }
    if (asked.empty()) continue;
    // When the step began, all of them; and of the first layer, which was over, what the next token will ask.
    ASSERT_EQ(known.size(), asked.size() + 1);
    known.pop_back();
    EXPECT_EQ(known, asked);
    announced += static_cast<int>(known.size());
    if (!next.empty()) {
      EXPECT_EQ(next, asked);
    }
    // As each layer was over, the next token's.
    std::vector<std::pair<LayerId, std::vector<ExpertId>>> all = world_.expected;
    std::erase_if(all, [](const auto& e) { return e.second.empty(); });
    ASSERT_EQ(all.size(), 2 * asked.size());
    next.assign(all.begin() + static_cast<std::ptrdiff_t>(asked.size()), all.end());
  }
  EXPECT_GE(announced, 5 * 3);
}

// The state and its regions on one thread, clients on others, as in a swarm, but with a queue whose
// synchronisation a thread sanitizer sees.
class ThreadWorld : public StepTimer {
 public:
  ThreadWorld(CoordinatorState& state, RegionState& region, int64_t regions)
      : state_(state), region_(region) {
    std::vector<std::shared_ptr<RegionLink>> links;
    for (int64_t r = 0; r < regions; ++r) links.push_back(std::make_shared<Link>(*this));
    state.Connect(this, std::move(links));
    thread_ = std::jthread([this] { Work(); });
  }
  ~ThreadWorld() override {
    Post([this] { over_ = true; });
  }

  void Post(std::function<void()> message) {
    std::lock_guard lock(mutex_);
    messages_.push_back(std::move(message));
    changed_.notify_one();
  }
  void StepSoon() override {
    Post([this] { state_.Step(); });
  }
  void TickAfter(std::chrono::milliseconds) override {}
  void WakeAt(std::chrono::steady_clock::time_point) override {}
  void PartDone() override {
    Post([this] { state_.OnPartDone(); });
  }

 private:
  class Link : public RegionLink {
   public:
    explicit Link(ThreadWorld& world) : world_(world) {}
    void Send(RegionRequestPtr request) override {
      world_.Post([this, request] { world_.state_.OnReply(*world_.region_.Start(request, nullptr)); });
    }
    void Prefetch(LayerId, std::span<const ExpertId>, Foresight) override {}
    void Renew() override {}

   private:
    ThreadWorld& world_;
  };

  void Work() {
    while (!over_) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !messages_.empty(); });
      const std::function<void()> message = std::move(messages_.front());
      messages_.pop_front();
      lock.unlock();
      message();
    }
  }

  CoordinatorState& state_;
  RegionState& region_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> messages_;
  bool over_ = false;
  std::jthread thread_;
};

TEST(CoordinatorThreads, ClientsOnOtherThreadsGetTheirTokens) {
  TinyModel tiny;
  WorkerPool pool(2);
  SwarmCounters counters(tiny.model.config());
  CpuDecoder decoder(tiny.model.weights(), pool);
  CoordinatorState state(tiny.model.config(), decoder, CoordinatorOptions(), counters);
  RegionState region(tiny.model.config(), tiny.model, pool);
  ThreadWorld world(state, region, tiny.model.config().num_regions());
  constexpr uint64_t kClients = 3;
  std::vector<GenerateResult> got(kClients);
  {
    std::vector<std::jthread> clients;
    for (uint64_t id = 0; id < kClients; ++id) {
      clients.emplace_back([&, id] {
        // The last client goes away early; the others are slow readers of a small channel.
        auto channel = std::make_shared<SessionChannel>(2);
        auto session =
            std::make_shared<Session>(SessionId(id), MakeRequest(tiny, 5, id == 2 ? 100'000 : 30, id),
                                      tiny.tokenizer, 1'000'000, channel);
        world.Post([&state, session] { state.Submit(session); });
        session.reset();
        int64_t seen = 0;
        while (true) {
          auto taken = channel->Take(std::stop_token());
          if (taken.resume) world.Post([&state, id] { state.Resume(SessionId(id)); });
          if (id == 2 && !taken.events.empty()) world.Post([&state, id] { state.Cancel(SessionId(id)); });
          const int64_t steps = counters.decode.steps.Get() + counters.mixed.steps.Get();
          EXPECT_GE(steps, seen);  // counters may be read at any time, and never go back
          seen = steps;
          if (!taken.result.has_value()) continue;
          ASSERT_TRUE(taken.result->ok());
          got[id] = **taken.result;
          return;
        }
      });
    }
  }
  EXPECT_EQ(got[0].tokens, PlainLoop(tiny, MakeRequest(tiny, 5, 30, 0)));
  EXPECT_EQ(got[1].tokens, PlainLoop(tiny, MakeRequest(tiny, 5, 30, 1)));
  EXPECT_EQ(got[2].reason, StopReason::kCancelled);
}

}  // namespace
}  // namespace omni
