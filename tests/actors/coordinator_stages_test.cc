// Parts of a step that go on elsewhere, the stages between hidden state and token, and what sessions may take
// of memory.
#include <algorithm>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "actors/region_state.h"
#include "engine/around/adapter_bytes.h"
#include "engine/around/text_memory.h"
#include "tests/actors/fake_world.h"
#include "tests/actors/testing.h"
#include "tests/testing/adapters.h"

namespace omni {
namespace {

using omni::testing::FakeWorld;
using omni::testing::MakeRequest;
using omni::testing::PlainLoop;
using omni::testing::TinyModel;
using ::testing::HasSubstr;

// A decoder whose parts are over when the test says so.
class LaterDecoder : public CpuDecoder {
 public:
  using CpuDecoder::CpuDecoder;
  bool StartLayer(LayerId layer, const Done& done) override {
    EXPECT_EQ(done_, nullptr);
    CpuDecoder::StartLayer(layer);
    done_ = done;
    return false;
  }
  bool StartHidden(const Done& done) override {
    CpuDecoder::StartHidden();
    done_ = done;
    return false;
  }
  bool StartLogits(const Done& done) override {
    CpuDecoder::StartLogits();
    done_ = done;
    return false;
  }
  bool running() const { return done_ != nullptr; }
  void End() { std::exchange(done_, nullptr)(); }

 private:
  Done done_;
};

// Chooses the same token for every row, if `answers`; at once or, if `later`, when the test says so.
class FixedStage : public TokenStage {
 public:
  explicit FixedStage(TokenId token, bool later = false) : token_(token), later_(later) {}
  bool Run(std::span<TokenRow> rows, const Done& done) override {
    rows_seen += rows.size();
    for (TokenRow& row : rows) {
      EXPECT_FALSE(row.logits.empty());
      EXPECT_EQ(row.state->position(), static_cast<int64_t>(row.history.size()));
      if (!failure.ok()) row.status = failure;
      row.choice = Sampled{token_, 0.25f};
    }
    waiting = done;
    return !later_;
  }
  absl::Status failure;
  size_t rows_seen = 0;
  Done waiting;

 private:
  TokenId token_;
  bool later_;
};

class ZeroHidden : public TokenStage {
 public:
  bool Run(std::span<TokenRow> rows, const Done&) override {
    for (TokenRow& row : rows) {
      EXPECT_TRUE(row.logits.empty());
      std::fill(row.hidden.begin(), row.hidden.end(), 0.0f);
    }
    return true;
  }
};

class StagesTest : public ::testing::Test {
 protected:
  void Start(const CoordinatorOptions& options, bool later = false) {
    if (later) {
      later_ = new LaterDecoder(tiny_.model.weights(), pool_);
      decoder_.reset(later_);
    } else {
      decoder_ = std::make_unique<CpuDecoder>(tiny_.model.weights(), pool_);
    }
    state_ = std::make_unique<CoordinatorState>(tiny_.model.config(), *decoder_, options, counters_);
    state_->Connect(&world_, world_.Links(tiny_.model.config().num_regions()));
  }
  std::shared_ptr<SessionChannel> Submit(const GenerateRequest& request, SessionExtras extras = {}) {
    auto channel = std::make_shared<SessionChannel>(10'000);
    state_->Submit(std::make_shared<Session>(SessionId(next_id_++), request, tiny_.tokenizer, 1'000'000,
                                             channel, nullptr, std::move(extras)));
    return channel;
  }
  // Everything that can happen without the test's help.
  void Run() {
    while (true) {
      if (world_.parts_done > 0) {
        --world_.parts_done;
        state_->OnPartDone();
      } else if (!world_.requests.empty()) {
        const RegionRequestPtr request = world_.requests.front();
        world_.requests.pop_front();
        state_->OnReply(*region_.Start(request, nullptr));
      } else if (world_.steps > 0) {
        --world_.steps;
        state_->Step();
      } else if (later_ != nullptr && later_->running()) {
        later_->End();
      } else {
        return;
      }
    }
  }
  static std::optional<absl::StatusOr<GenerateResult>> End(SessionChannel& channel) {
    return channel.Poll().result;
  }

  TinyModel tiny_;
  WorkerPool pool_{1};
  SwarmCounters counters_{tiny_.model.config()};
  FakeWorld world_;
  std::unique_ptr<Decoder> decoder_;
  LaterDecoder* later_ = nullptr;
  std::unique_ptr<CoordinatorState> state_;
  RegionState region_{tiny_.model.config(), tiny_.model, pool_};
  uint64_t next_id_ = 1;
};

TEST_F(StagesTest, PartsThatEndLaterGiveTheSameTokens) {
  Start({}, /*later=*/true);
  const GenerateRequest request = MakeRequest(tiny_, 70, 5, 1);
  auto channel = Submit(request);
  Run();
  const auto end = End(*channel);
  ASSERT_TRUE(end.has_value() && end->ok());
  EXPECT_EQ((*end)->tokens, PlainLoop(tiny_, request));
}

TEST_F(StagesTest, AnAbortWaitsForThePartThatRuns) {
  Start({}, /*later=*/true);
  auto first = Submit(MakeRequest(tiny_, 3, 5, 1));
  --world_.steps;
  state_->Step();
  ASSERT_TRUE(later_->running());
  state_->Abort(absl::InternalError("broken"));
  EXPECT_EQ(End(*first)->status().message(), "broken");
  const GenerateRequest request = MakeRequest(tiny_, 4, 3, 2);
  auto second = Submit(request);
  EXPECT_EQ(world_.steps, 0);  // the decoder is in use
  Run();
  EXPECT_EQ((*End(*second))->tokens, PlainLoop(tiny_, request));
}

TEST_F(StagesTest, ADecideStageChoosesInTheSamplersPlace) {
  FixedStage stage(TokenId('q'));
  CoordinatorOptions options;
  options.decide = {&stage};
  Start(options);
  auto channel = Submit(MakeRequest(tiny_, 3, 4, 1));
  Run();
  const auto end = End(*channel);
  ASSERT_TRUE(end.has_value() && end->ok());
  EXPECT_EQ((*end)->tokens, std::vector<TokenId>(4, TokenId('q')));
  EXPECT_EQ(stage.rows_seen, 4u);
}

TEST_F(StagesTest, ADecideStageMayAnswerLater) {
  FixedStage stage(TokenId('q'), /*later=*/true);
  CoordinatorOptions options;
  options.decide = {&stage};
  Start(options);
  auto channel = Submit(MakeRequest(tiny_, 3, 2, 1));
  Run();
  EXPECT_TRUE(channel->Poll().events.empty());  // no token before the answer
  for (int i = 0; i < 2; ++i) {
    ASSERT_NE(stage.waiting, nullptr);
    std::exchange(stage.waiting, nullptr)();
    Run();
  }
  const auto end = End(*channel);
  ASSERT_TRUE(end.has_value() && end->ok());
  EXPECT_EQ((*end)->tokens, std::vector<TokenId>(2, TokenId('q')));
}

TEST_F(StagesTest, AStageThatFailsEndsTheRowsSessionWithItsReason) {
  FixedStage stage(TokenId('q'));
  stage.failure = absl::UnavailableError("the memory is away");
  CoordinatorOptions options;
  options.decide = {&stage};
  Start(options);
  auto channel = Submit(MakeRequest(tiny_, 3, 4, 1));
  Run();
  EXPECT_EQ(End(*channel)->status().message(), "the memory is away");
}

TEST_F(StagesTest, AProjectStageChangesWhatTheLogitsAreMadeOf) {
  ZeroHidden stage;
  CoordinatorOptions options;
  options.project = {&stage};
  Start(options);
  GenerateRequest request = MakeRequest(tiny_, 3, 4, 1);
  request.sampler.temperature = 0;
  auto channel = Submit(request);
  Run();
  // Of equal logits the lowest id wins.
  EXPECT_EQ((*End(*channel))->tokens, std::vector<TokenId>(4, TokenId(0)));
}

TEST_F(StagesTest, ASessionWhoseStateDoesNotFitBesideTheOthersWaits) {
  CoordinatorOptions options;
  options.state_bytes = 2 * SessionState::BytesFor(tiny_.model.config()) + 1;
  Start(options);
  std::vector<std::shared_ptr<SessionChannel>> channels;
  for (uint64_t i = 0; i < 3; ++i) channels.push_back(Submit(MakeRequest(tiny_, 2, 3, i)));
  --world_.steps;
  state_->Step();
  EXPECT_EQ(counters_.active.Get(), 2);
  EXPECT_EQ(counters_.queued.Get(), 1);
  Run();
  for (uint64_t i = 0; i < 3; ++i) {
    EXPECT_EQ((*End(*channels[i]))->tokens, PlainLoop(tiny_, MakeRequest(tiny_, 2, 3, i))) << i;
  }
}

// Adapters and memories of texts are in memory once, however many sessions hold them.
TEST_F(StagesTest, WhatSessionsHoldInCommonCountsOnce) {
  const ModelConfig& config = tiny_.model.config();
  const auto adapter = [&](uint64_t seed) {
    SessionExtras extras;
    extras.adapter =
        std::make_shared<const ReadyAdapter>(config, testing::RandomAdapter(config, "", 0.0f, seed));
    return extras;
  };
  const SessionExtras one = adapter(1), two = adapter(2);
  SessionExtras remembers;
  remembers.stored = std::make_shared<const TextMemory>();
  const int64_t adapter_bytes = AdapterBytes(*one.adapter, config.d), state = SessionState::BytesFor(config);
  ASSERT_GT(adapter_bytes, 4 * config.d);
  ASSERT_GE(remembers.stored->bytes(), 8 << 20);
  const auto active = [&](int64_t state_bytes, const std::vector<SessionExtras>& sessions) {
    CoordinatorOptions options;
    options.state_bytes = state_bytes;
    Start(options);
    std::vector<std::shared_ptr<SessionChannel>> channels;
    for (const SessionExtras& extras : sessions)
      channels.push_back(Submit(MakeRequest(tiny_, 2, 3, channels.size()), extras));
    --world_.steps;
    state_->Step();
    const int64_t at_once = counters_.active.Get();
    Run();
    for (const auto& channel : channels) EXPECT_TRUE((*End(*channel)).ok());
    return at_once;
  };
  // Alone, whatever it holds, and a budget for two states.
  EXPECT_EQ(active(2 * state, {one}), 1);
  EXPECT_EQ(active(2 * state, {remembers}), 1);
  EXPECT_EQ(active(2 * state, {{}, {}}), 2);
  EXPECT_EQ(active(2 * state, {one, {}}), 1);
  EXPECT_EQ(active(2 * state + adapter_bytes - 1, {{}, one}), 1);
  EXPECT_EQ(active(2 * state + adapter_bytes, {{}, one}), 2);
  EXPECT_EQ(active(2 * state + adapter_bytes, {one, one}), 2);
  EXPECT_EQ(active(2 * state + adapter_bytes, {one, two}), 1);
  EXPECT_EQ(active(2 * state + 2 * adapter_bytes, {one, two}), 2);
  EXPECT_EQ(active(2 * state, {remembers, {}}), 1);
  EXPECT_EQ(active(2 * state + remembers.stored->bytes(), {remembers, remembers}), 2);
}

TEST_F(StagesTest, ASessionThatCanNeverFitIsRefusedByName) {
  CoordinatorOptions options;
  options.state_bytes = SessionState::BytesFor(tiny_.model.config()) - 1;
  Start(options);
  auto channel = Submit(MakeRequest(tiny_, 2, 3, 1));
  const auto end = End(*channel);
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(end->status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(end->status().message()), HasSubstr("a session's state takes"));
}

TEST_F(StagesTest, CancellingAQueuedSessionEndsItAndNoOther) {
  CoordinatorOptions options;
  options.max_active = 1;
  Start(options);
  const GenerateRequest request = MakeRequest(tiny_, 2, 3, 1);
  auto first = Submit(request);
  auto second = Submit(MakeRequest(tiny_, 2, 3, 2));
  --world_.steps;
  state_->Step();
  state_->Cancel(SessionId(2));
  EXPECT_EQ((*End(*second))->reason, StopReason::kCancelled);
  Run();
  EXPECT_EQ((*End(*first))->tokens, PlainLoop(tiny_, request));
  EXPECT_EQ(counters_.queued.Get(), 0);
}

TEST_F(StagesTest, AnAnswerAfterAnAbortDoesNotCount) {
  Start({});
  Submit(MakeRequest(tiny_, 8, 3, 8));
  --world_.steps;
  state_->Step();
  const RegionReplyPtr late = region_.Start(world_.requests.front(), nullptr);
  world_.requests.clear();
  state_->Abort(absl::InternalError("broken"));
  const GenerateRequest request = MakeRequest(tiny_, 5, 3, 9);
  auto second = Submit(request);
  world_.steps = std::min(world_.steps, 1);
  --world_.steps;
  state_->Step();
  state_->OnReply(*late);
  Run();
  EXPECT_EQ((*End(*second))->tokens, PlainLoop(tiny_, request));
}

TEST_F(StagesTest, ASnapshotInAStepIsTakenWhenTheStepIsOver) {
  Start({});
  const GenerateRequest request = MakeRequest(tiny_, 2, 6, 1);
  auto channel = Submit(request);
  --world_.steps;
  state_->Step();
  SnapshotPromise promise;
  auto future = promise.get_future();
  state_->Snapshot(SessionId(1), std::move(promise));
  EXPECT_EQ(future.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  Run();
  const auto snapshot = future.get();
  ASSERT_TRUE(snapshot.ok()) << snapshot.status();
  EXPECT_EQ((*snapshot)->generated, 1);
  EXPECT_EQ((*snapshot)->state.position(), 2);
  EXPECT_EQ((*snapshot)->tokens.size(), 3u);
}

TEST_F(StagesTest, ASnapshotOfNobodyIsNotFound) {
  Start({});
  SnapshotPromise promise;
  auto future = promise.get_future();
  state_->Snapshot(SessionId(4), std::move(promise));
  EXPECT_EQ(future.get().status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace omni
