// What is thrown, what hangs, and what is still open when the swarm goes.
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "actors/swarm.h"
#include "tests/actors/actors_environment.h"
#include "tests/actors/on_device.h"
#include "tests/actors/testing.h"

namespace omni {
namespace {

using omni::testing::ActorsEnvironment;
using omni::testing::HookedSource;
using omni::testing::MakeRequest;
using omni::testing::PlainLoop;
using omni::testing::TinyModel;
using ::testing::HasSubstr;

std::unique_ptr<Swarm> StartOn(TinyModel& tiny, ExpertSource& experts, SwarmOptions options) {
  options.threads = 1;
  auto swarm = Swarm::Start(ActorsEnvironment::Actors(), tiny.model.weights(), experts, tiny.tokenizer,
                            testing::OnDevice(options, /*experts_outside=*/true));
  EXPECT_TRUE(swarm.ok()) << swarm.status();
  return *std::move(swarm);
}

// Experts whose reads hang until the test ends them.
class HangingSource : public ExpertSource {
 public:
  explicit HangingSource(ExpertSource& inner) : inner_(inner) {}
  bool resident() const override { return false; }
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override {
    return inner_.Acquire(layer, expert);
  }
  void Request(RequesterId, LayerId layer, ExpertId expert, const OnReady& on_ready,
               const OnPartial&) override {
    std::unique_lock lock(mutex_);
    if (hanging_) {
      waiting_.push_back([=, tiles = inner_.Acquire(layer, expert)] { on_ready(tiles); });
      changed_.notify_all();
      return;
    }
    lock.unlock();
    on_ready(inner_.Acquire(layer, expert));
  }
  void WaitForRequests(size_t n) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_.size() >= n; });
  }
  void LetGo() {
    std::vector<std::function<void()>> waiting;
    {
      std::lock_guard lock(mutex_);
      hanging_ = false;
      waiting.swap(waiting_);
    }
    for (auto& answer : waiting) answer();
  }

 private:
  ExpertSource& inner_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool hanging_ = true;
  std::vector<std::function<void()>> waiting_;
};

class ThrowingStage : public TokenStage {
 public:
  bool Run(std::span<TokenRow>, const Done&) override {
    if (left_-- > 0) throw std::runtime_error("the stage broke");
    return true;
  }

 private:
  int left_ = 1;
};

TEST(SwarmFaults, WhatAStageThrowsFailsTheSessionsThereAreAndNoneThatCome) {
  TinyModel tiny;
  ThrowingStage stage;
  SwarmOptions options;
  options.coordinator.decide = {&stage};
  auto swarm = StartOn(tiny, tiny.model, options);
  const GenerateRequest request = MakeRequest(tiny, 3, 4, 1);
  const auto failed = swarm->Generate(request, nullptr);
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("the stage broke"));
  EXPECT_EQ(swarm->Generate(request, nullptr)->tokens, PlainLoop(tiny, request));
}

TEST(SwarmFaults, ARegionThatThrowsIsBegunAfresh) {
  TinyModel tiny;
  int calls = 0;
  HookedSource source(tiny.model, [&](LayerId, ExpertId) -> absl::Status {
    if (++calls % 7 == 0) throw std::runtime_error("torn apart");
    return absl::OkStatus();
  });
  auto swarm = StartOn(tiny, source, {});
  const GenerateRequest request = MakeRequest(tiny, 9, 12, 2);
  EXPECT_EQ(swarm->Generate(request, nullptr)->tokens, PlainLoop(tiny, request));
  EXPECT_GT(swarm->Stats().restarts, 2);
}

TEST(SwarmFaults, ARegionThatAlwaysThrowsIsReportedWithWhatItThrew) {
  TinyModel tiny;
  HookedSource source(tiny.model,
                      [](LayerId, ExpertId) -> absl::Status { throw std::runtime_error("torn apart"); });
  auto swarm = StartOn(tiny, source, {});
  const auto failed = swarm->Generate(MakeRequest(tiny, 2, 2, 2), nullptr);
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("torn apart"));
}

TEST(SwarmFaults, AReadThatHangsIsGivenUpAndItsLateExpertHurtsNobody) {
  TinyModel tiny;
  HangingSource source(tiny.model);
  SwarmOptions options;
  options.coordinator.calls.timeout = std::chrono::milliseconds(8);
  options.coordinator.calls.attempts = 2;
  auto swarm = StartOn(tiny, source, options);
  const GenerateRequest request = MakeRequest(tiny, 2, 4, 3);
  const auto failed = swarm->Generate(request, nullptr);
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("no answer within 8 ms"));
  source.LetGo();
  EXPECT_EQ(swarm->Generate(request, nullptr)->tokens, PlainLoop(tiny, request));
}

TEST(SwarmFaults, AReadThatHangsForAWhileCostsARetryAndNoToken) {
  TinyModel tiny;
  HangingSource source(tiny.model);
  SwarmOptions options;
  options.coordinator.calls.timeout = std::chrono::milliseconds(8);
  options.coordinator.calls.attempts = 1'000'000;
  auto swarm = StartOn(tiny, source, options);
  const GenerateRequest request = MakeRequest(tiny, 2, 4, 3);
  std::vector<TokenId> tokens;
  {
    std::jthread caller([&] { tokens = swarm->Generate(request, nullptr)->tokens; });
    source.WaitForRequests(3);  // asked for the third time: two attempts were given up
    source.LetGo();
  }
  EXPECT_EQ(tokens, PlainLoop(tiny, request));
  EXPECT_GE(swarm->Stats().timeouts, 2);
}

TEST(SwarmFaults, TheSwarmGoesOnlyWhenNoReadIsOpenAnyMore) {
  TinyModel tiny;
  HangingSource source(tiny.model);
  auto swarm = StartOn(tiny, source, {});
  std::optional<absl::StatusOr<GenerateResult>> result;
  std::jthread caller([&] { result = swarm->Generate(MakeRequest(tiny, 2, 4, 3), nullptr); });
  source.WaitForRequests(1);
  bool gone = false;
  std::jthread closer([&] {
    swarm = nullptr;
    gone = true;
  });
  caller.join();  // the session ends though its expert has not come
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->ok() ? (*result)->reason : StopReason::kLength, StopReason::kCancelled);
  source.LetGo();
  closer.join();
  EXPECT_TRUE(gone);
}

}  // namespace
}  // namespace omni
