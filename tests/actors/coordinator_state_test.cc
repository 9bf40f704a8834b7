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
#include "tests/actors/testing.h"

namespace omni {
namespace {

using omni::testing::MakeRequest;
using omni::testing::PlainLoop;
using omni::testing::TinyModel;
using ::testing::HasSubstr;

// The world around the state, by hand: jobs and wishes are kept until the test lets them happen.
class FakeIo : public CoordinatorIo {
 public:
  void SendJob(RegionJobPtr job) override { jobs.push_back(std::move(job)); }
  void ReplaceRegion(RegionId region) override { replaced.push_back(region); }
  void ReadAhead(LayerId layer, std::span<const ExpertId> experts) override {
    expected.push_back({layer, {experts.begin(), experts.end()}});
  }
  void StepSoon() override { ++steps; }
  void TickAfter(std::chrono::milliseconds) override { ++ticks; }

  std::deque<RegionJobPtr> jobs;
  std::vector<RegionId> replaced;
  std::vector<std::pair<LayerId, std::vector<ExpertId>>> expected;
  int steps = 0, ticks = 0;
};

class CoordinatorTest : public ::testing::Test {
 protected:
  explicit CoordinatorTest(const CoordinatorOptions& options = SmallOptions())
      : counters_(tiny_.model.config()),
        state_(tiny_.model.weights(), pool_, options, counters_),
        region_(tiny_.model.config(), tiny_.model, pool_, no_fault_) {
    state_.set_io(&io_);
  }

  static CoordinatorOptions SmallOptions() {
    CoordinatorOptions options;
    options.max_active = 3;
    options.max_queued = 2;
    options.max_rows = 8;
    options.prefill_rows_beside_decode = 2;
    return options;
  }

  std::shared_ptr<SessionChannel> Submit(const GenerateRequest& request) {
    auto channel = std::make_shared<SessionChannel>(10'000);
    state_.Submit(std::make_shared<Session>(next_id_++, request, tiny_.tokenizer, 1'000'000, channel));
    return channel;
  }

  void Serve() {
    const RegionJobPtr job = io_.jobs.front();
    io_.jobs.pop_front();
    if (RegionReplyPtr reply = region_.Run(*job)) state_.OnReply(*reply);
  }
  // One step, its jobs served in order.
  void StepOnce() {
    ASSERT_GT(io_.steps, 0);
    --io_.steps;
    state_.Step();
    while (!io_.jobs.empty()) Serve();
  }
  void RunAll() {
    while (io_.steps > 0) StepOnce();
  }
  static std::optional<absl::StatusOr<GenerateResult>> End(SessionChannel& channel) {
    std::stop_source stop;
    stop.request_stop();
    return channel.Take(stop.get_token()).result;
  }

  TinyModel tiny_;
  WorkerPool pool_{1};
  RegionFaultHook no_fault_;
  SwarmCounters counters_;
  FakeIo io_;
  CoordinatorState state_;
  RegionState region_;
  uint64_t next_id_ = 1;
};

TEST_F(CoordinatorTest, StepsUntilTheSessionIsOverAndThenRests) {
  const GenerateRequest request = MakeRequest(tiny_, 20, 6, 1);
  auto channel = Submit(request);
  RunAll();
  auto end = End(*channel);
  ASSERT_TRUE(end.has_value() && end->ok());
  EXPECT_EQ((*end)->tokens, PlainLoop(tiny_, request));
  EXPECT_EQ(counters_.mixed.steps.Get(), 3);  // 8 + 8 + 4 rows
  EXPECT_EQ(counters_.decode.steps.Get(), 5);
  EXPECT_EQ(io_.steps, 0);
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
  const RegionJobPtr lost = io_.jobs.front();
  io_.jobs.pop_front();
  state_.OnRegionDown(lost->region(), "killed");
  ASSERT_EQ(io_.jobs.size(), 1u);
  EXPECT_EQ(io_.jobs.front()->attempt(), 2);
  EXPECT_NE(io_.jobs.front()->id(), lost->id());
  EXPECT_THAT(io_.replaced, ::testing::ElementsAre(lost->region()));
  while (!io_.jobs.empty()) Serve();
  RunAll();
  auto end = End(*channel);
  ASSERT_TRUE(end.has_value() && end->ok());
  EXPECT_EQ((*end)->tokens, PlainLoop(tiny_, request));
}

TEST_F(CoordinatorTest, ReplacesADeadRegionThatHadNothingToDo) {
  state_.OnRegionDown(RegionId(3), "killed");
  EXPECT_THAT(io_.replaced, ::testing::ElementsAre(RegionId(3)));
  EXPECT_TRUE(io_.jobs.empty());
}

TEST_F(CoordinatorTest, IgnoresTheAnswerOfAnAttemptItHasGivenUp) {
  const GenerateRequest request = MakeRequest(tiny_, 1, 3, 4);
  auto channel = Submit(request);
  state_.Step();
  const RegionReplyPtr late = region_.Run(*io_.jobs.front());
  io_.jobs.pop_front();
  state_.OnRegionDown(late->region, "killed");
  state_.OnReply(*late);
  ASSERT_EQ(io_.jobs.size(), 1u);  // the second attempt is still awaited: the layer is not over
  while (!io_.jobs.empty()) Serve();
  state_.OnReply(*late);
  RunAll();
  auto end = End(*channel);
  ASSERT_TRUE(end.has_value() && end->ok());
  EXPECT_EQ((*end)->tokens, PlainLoop(tiny_, request));
}

TEST_F(CoordinatorTest, TakesAJobBackOnlyIfNobodyIsComputingIt) {
  Submit(MakeRequest(tiny_, 1, 3, 5));
  state_.Step();
  const RegionJobPtr job = io_.jobs.front();
  const auto late = CoordinatorState::Clock::now() + std::chrono::hours(1);
  state_.OnTick(CoordinatorState::Clock::now());
  EXPECT_EQ(io_.jobs.size(), 1u);  // in time
  ASSERT_TRUE(job->Claim());
  state_.OnTick(late);
  EXPECT_EQ(io_.jobs.size(), 1u);  // being computed
  EXPECT_EQ(counters_.timeouts.Get(), 0);
}

TEST_F(CoordinatorTest, ARegionDropsAJobThatWasTakenBack) {
  Submit(MakeRequest(tiny_, 1, 3, 6));
  state_.Step();
  const RegionJobPtr job = io_.jobs.front();
  state_.OnTick(CoordinatorState::Clock::now() + std::chrono::hours(1));
  EXPECT_EQ(io_.jobs.size(), 2u);
  EXPECT_EQ(counters_.timeouts.Get(), 1);
  EXPECT_EQ(region_.Run(*job), nullptr);
}

TEST_F(CoordinatorTest, ACancelledPromptEndsItsStep) {
  auto channel = Submit(MakeRequest(tiny_, 8, 3, 7));
  state_.Step();
  state_.Cancel(1);
  ASSERT_TRUE(End(*channel).has_value());
  while (!io_.jobs.empty()) Serve();
  RunAll();
  EXPECT_EQ(counters_.mixed.steps.Get() + counters_.decode.steps.Get(), 0);
  EXPECT_EQ(counters_.active.Get(), 0);
}

TEST_F(CoordinatorTest, AbortFailsWhatRunsAndServesWhatComes) {
  auto first = Submit(MakeRequest(tiny_, 8, 3, 8));
  state_.Step();
  io_.jobs.clear();
  state_.Abort(absl::InternalError("broken"));
  EXPECT_EQ(End(*first)->status().message(), "broken");
  const GenerateRequest request = MakeRequest(tiny_, 5, 3, 9);
  auto second = Submit(request);
  io_.steps = std::max(io_.steps, 1);
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
  static CoordinatorOptions Guessing(bool follow) {
    CoordinatorOptions options = SmallOptions();
    options.predict_ahead = 2;
    // Routes that no guess meets: each expert's opposite.
    if (!follow) {
      options.reroute = [](LayerId layer, std::span<ExpertId> routes) {
        for (ExpertId& route : routes) route = ExpertId((route.value + 1 + layer.value) % 8);
      };
    }
    return options;
  }
  explicit GuessTest(bool follow) : CoordinatorTest(Guessing(follow)) {}
};
class RightGuessTest : public GuessTest {
 protected:
  RightGuessTest() : GuessTest(true) {}
};
class WrongGuessTest : public GuessTest {
 protected:
  WrongGuessTest() : GuessTest(false) {}
};

TEST_F(RightGuessTest, TheNextTwoExpertLayersAreAnnounced) {
  auto channel = Submit(MakeRequest(tiny_, 1, 1, 1));
  StepOnce();
  const ModelConfig& config = tiny_.model.config();
  std::vector<int32_t> expert_layers;
  for (int32_t l = 0; l < config.layers; ++l) {
    if (!config.IsAttention(l)) expert_layers.push_back(l);
  }
  ASSERT_GE(expert_layers.size(), 3u);
  ASSERT_GE(io_.expected.size(), 2u);
  EXPECT_EQ(io_.expected[0].first.value, expert_layers[1]);
  EXPECT_EQ(io_.expected[1].first.value, expert_layers[2]);
  EXPECT_EQ(io_.expected[0].second.size(), 1u);
  EXPECT_EQ(counters_.predicted[0].Get(), static_cast<int64_t>(expert_layers.size()) - 1);
  EXPECT_EQ(counters_.predicted[1].Get(), static_cast<int64_t>(expert_layers.size()) - 2);
}

TEST_F(WrongGuessTest, GuessesThatAreWrongTooOftenAreCountedButNotAnnounced) {
  auto channel = Submit(MakeRequest(tiny_, 1, 400, 1));
  RunAll();
  const int64_t guesses = counters_.predicted[0].Get();
  ASSERT_GT(guesses, 400);
  EXPECT_LT(counters_.predicted_right[0].Get(), guesses / 4);
  EXPECT_LT(static_cast<int64_t>(io_.expected.size()), guesses / 2);
  EXPECT_GT(io_.expected.size(), 10u);
}

// The state and its regions on one thread, clients on others, as in a swarm, but with a queue whose
// synchronisation a thread sanitizer sees.
class ThreadIo : public CoordinatorIo {
 public:
  ThreadIo(CoordinatorState& state, RegionState& region) : state_(state), region_(region) {
    state.set_io(this);
    thread_ = std::jthread([this] { Work(); });
  }
  ~ThreadIo() override {
    Post([this] { over_ = true; });
  }

  void Post(std::function<void()> message) {
    std::lock_guard lock(mutex_);
    messages_.push_back(std::move(message));
    changed_.notify_one();
  }
  void SendJob(RegionJobPtr job) override {
    Post([this, job] {
      if (RegionReplyPtr reply = region_.Run(*job)) state_.OnReply(*reply);
    });
  }
  void ReplaceRegion(RegionId) override {}
  void ReadAhead(LayerId, std::span<const ExpertId>) override {}
  void StepSoon() override {
    Post([this] { state_.Step(); });
  }
  void TickAfter(std::chrono::milliseconds) override {}

 private:
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
  const RegionFaultHook no_fault;
  SwarmCounters counters(tiny.model.config());
  CoordinatorState state(tiny.model.weights(), pool, CoordinatorOptions(), counters);
  RegionState region(tiny.model.config(), tiny.model, pool, no_fault);
  ThreadIo io(state, region);
  constexpr uint64_t kClients = 3;
  std::vector<GenerateResult> got(kClients);
  {
    std::vector<std::jthread> clients;
    for (uint64_t id = 0; id < kClients; ++id) {
      clients.emplace_back([&, id] {
        // The last client goes away early; the others are slow readers of a small channel.
        auto channel = std::make_shared<SessionChannel>(2);
        auto session = std::make_shared<Session>(id, MakeRequest(tiny, 5, id == 2 ? 100'000 : 30, id),
                                                 tiny.tokenizer, 1'000'000, channel);
        io.Post([&state, session] { state.Submit(session); });
        session.reset();
        while (true) {
          auto taken = channel->Take(std::stop_token());
          if (taken.resume) io.Post([&state, id] { state.Resume(id); });
          if (id == 2 && !taken.events.empty()) io.Post([&state, id] { state.Cancel(id); });
          EXPECT_GE(counters.decode.wall_ns.Get(), 0);
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
