// A swarm on a device that is lost: sessions whose states were there, in every kind of step.
#include <dlfcn.h>

#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "actors/swarm.h"
#include "tests/actors/actors_environment.h"
#include "tests/actors/on_device.h"
#include "tests/actors/testing.h"
#include "tests/testing/adapters.h"

namespace omni {
namespace {

using omni::testing::ActorsEnvironment;
using omni::testing::MakeRequest;
using omni::testing::OnDevice;
using omni::testing::PlainLoop;
using omni::testing::TinyModel;

// The device from now on; as one that is whole, -1.
void SetDevice(int64_t launches_before_loss, int64_t memory_bytes = int64_t{4} << 30) {
  void* library = dlopen(OMNI_FIBERS, RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(library, nullptr) << dlerror();
  using Set = void (*)(int, int64_t, int64_t);
  const auto set = reinterpret_cast<Set>(dlsym(library, "omni_fibers_set"));
  ASSERT_NE(set, nullptr);
  set(1, memory_bytes, launches_before_loss);
}

class SwarmDeviceTest : public ::testing::Test {
 protected:
  void TearDown() override {
    swarm_ = nullptr;
    SetDevice(-1);
  }
  void Start(const ModelConfig& config, SwarmOptions options = {}) {
    swarm_ = nullptr;
    tiny_ = std::make_unique<TinyModel>(config);
    SetDevice(-1);
    options.threads = 1;
    auto swarm = Swarm::Start(ActorsEnvironment::Actors(), tiny_->model.weights(), tiny_->model,
                              tiny_->tokenizer, OnDevice(options));
    ASSERT_TRUE(swarm.ok()) << swarm.status();
    swarm_ = *std::move(swarm);
  }
  // One whose requests may name the adapter "mine"; its options.
  SwarmOptions StartWithAdapter() {
    SwarmOptions options;
    options.adapters = &adapters_;
    Start(testing::TinyConfig(), options);
    const ModelConfig& config = tiny_->model.config();
    adapters_.Put("mine", config, testing::RandomAdapter(config, "", 0.15f, 1));
    return options;
  }
  static std::vector<TokenId> Rest(SessionHandle& handle) {
    std::vector<TokenId> tokens;
    while (true) {
      auto taken = handle.Wait();
      for (const GenerateEvent& event : taken.events) {
        if (event.is_token) tokens.push_back(event.token);
      }
      if (!taken.result.has_value()) continue;
      EXPECT_TRUE(taken.result->ok()) << taken.result->status();
      return tokens;
    }
  }

  testing::FixedAdapters adapters_;
  std::unique_ptr<TinyModel> tiny_;
  std::unique_ptr<Swarm> swarm_;
};

TEST_F(SwarmDeviceTest, SessionsWhoseStatesAreLostGiveTheSameTokens) {
  for (const auto& config : {testing::TinyConfig, testing::AddressConfig, testing::OddConfig}) {
    for (const int64_t launches : {1, 200, 450}) {
      Start(config());
      std::vector<GenerateRequest> requests = {MakeRequest(*tiny_, 5, 9, 1), MakeRequest(*tiny_, 90, 7, 2),
                                               MakeRequest(*tiny_, 2, 12, 3)};
      requests[1].keep = true;
      std::vector<std::unique_ptr<SessionHandle>> handles;
      SetDevice(launches);
      for (const GenerateRequest& request : requests) {
        auto handle = swarm_->Submit(request);
        ASSERT_TRUE(handle.ok());
        handles.push_back(*std::move(handle));
      }
      for (size_t i = 0; i < handles.size(); ++i)
        EXPECT_EQ(Rest(*handles[i]), PlainLoop(*tiny_, requests[i])) << launches << ", session " << i;
      const SwarmStats stats = swarm_->Stats();
      ASSERT_TRUE(stats.device.has_value());
      EXPECT_TRUE(stats.device->lost) << launches;
      EXPECT_GT(stats.device->fallbacks, 0);
      // Lost before any state was there, it is only a pass of the CPU's.
      if (launches > 1) {
        EXPECT_GT(stats.recoveries, 0) << launches;
      }
    }
  }
}

TEST_F(SwarmDeviceTest, WhatWasKeptOfALostDeviceGoesOnWithTheSameTokens) {
  for (const int64_t launches : {250, 500, 540, 580}) {
    Start(testing::TinyConfig());
    const GenerateRequest whole = MakeRequest(*tiny_, 7, 30, 3);
    GenerateRequest part = whole;
    part.max_tokens = 11;
    part.keep = true;
    SetDevice(launches);
    auto first = swarm_->Generate(part, nullptr);
    ASSERT_TRUE(first.ok()) << first.status();
    ASSERT_NE(first->snapshot, nullptr);
    GenerateRequest rest = whole;
    rest.prompt.clear();
    auto second = swarm_->Generate(rest, nullptr, first->snapshot);
    ASSERT_TRUE(second.ok()) << second.status();
    std::vector<TokenId> all = first->tokens;
    all.insert(all.end(), second->tokens.begin(), second->tokens.end());
    EXPECT_EQ(all, PlainLoop(*tiny_, whole)) << launches;
  }
}

TEST_F(SwarmDeviceTest, MoreSessionsThanTheDeviceHasRoomForGiveTheSameTokens) {
  Start(testing::TinyConfig());
  const auto used = swarm_->Stats().device->memory_used;
  std::vector<GenerateRequest> requests;
  for (uint64_t i = 0; i < 12; ++i)
    requests.push_back(MakeRequest(*tiny_, 3 + static_cast<int64_t>(i), 6, i));
  SetDevice(-1, used + 5 * SessionState(tiny_->model.config()).bytes() / 2);
  std::vector<std::unique_ptr<SessionHandle>> handles;
  for (const GenerateRequest& request : requests) {
    auto handle = swarm_->Submit(request);
    ASSERT_TRUE(handle.ok());
    handles.push_back(*std::move(handle));
  }
  for (size_t i = 0; i < handles.size(); ++i)
    EXPECT_EQ(Rest(*handles[i]), PlainLoop(*tiny_, requests[i])) << i;
  EXPECT_GT(swarm_->Stats().device->fallbacks, 0);
  EXPECT_FALSE(swarm_->Stats().device->lost);
  EXPECT_EQ(swarm_->Stats().recoveries, 0);
}

// Its passes are the CPU's, with whoever is in them; the others' states come from the device, and go back.
TEST_F(SwarmDeviceTest, NoDeviceComputesASessionThatHasAnAdapter) {
  const SwarmOptions options = StartWithAdapter();
  const GenerateRequest plain = MakeRequest(*tiny_, 5, 40, 1);
  GenerateRequest adapted = MakeRequest(*tiny_, 5, 12, 2);
  adapted.adapter.name = "mine";
  ASSERT_TRUE(swarm_->Generate(plain, nullptr).ok());
  EXPECT_EQ(swarm_->Stats().device->fallbacks, 0);
  const auto alone = swarm_->Generate(adapted, nullptr);
  ASSERT_TRUE(alone.ok()) << alone.status();
  const DeviceReport after = *swarm_->Stats().device;
  EXPECT_EQ(after.fallbacks, 12);
  EXPECT_NE(alone->tokens, PlainLoop(*tiny_, adapted));
  // On a CPU alone.
  SwarmOptions cpu = options;
  cpu.threads = 1;
  const auto other =
      Swarm::Start(ActorsEnvironment::Actors(), tiny_->model.weights(), tiny_->model, tiny_->tokenizer, cpu);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ((*other)->Generate(adapted, nullptr)->tokens, alone->tokens);
  // Beside another.
  auto first = swarm_->Submit(plain), second = swarm_->Submit(adapted);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(Rest(**second), alone->tokens);
  EXPECT_EQ(Rest(**first), PlainLoop(*tiny_, plain));
  EXPECT_GT(swarm_->Stats().device->passes, after.passes);
  EXPECT_EQ(swarm_->Stats().recoveries, 0);
}

// A session that looks at every token, beside one that only the CPU computes: once that has ended, its passes
// are the device's again.
TEST_F(SwarmDeviceTest, TheDeviceGoesOnWithPerspectivesAfterTheCpuHadAPass) {
  StartWithAdapter();
  GenerateRequest looking = MakeRequest(*tiny_, 5, 60, 1), adapted = MakeRequest(*tiny_, 5, 3, 2);
  looking.perspectives.emplace().every = 1;
  adapted.adapter.name = "mine";
  const auto alone = swarm_->Generate(looking, nullptr);
  ASSERT_TRUE(alone.ok()) << alone.status();
  const DeviceReport before = *swarm_->Stats().device;
  EXPECT_EQ(before.fallbacks, 0);
  auto first = swarm_->Submit(looking), second = swarm_->Submit(adapted);
  ASSERT_TRUE(first.ok() && second.ok());
  Rest(**second);
  EXPECT_EQ(Rest(**first), alone->tokens);
  const DeviceReport after = *swarm_->Stats().device;
  EXPECT_GT(after.fallbacks, 0);
  EXPECT_LT(after.fallbacks, 30);
  EXPECT_GT(after.passes - before.passes, 30);
}

TEST_F(SwarmDeviceTest, RoutesAreToldAndCountedWhereverTheyWereComputed) {
  Start(testing::TinyConfig());
  GenerateRequest request = MakeRequest(*tiny_, 5, 4, 1);
  request.routes = true;
  std::vector<std::vector<ExpertId>> routes;
  auto result = swarm_->Generate(request, [&](const GenerateEvent& event) {
    if (event.is_token) routes.push_back(event.routes);
    return true;
  });
  ASSERT_TRUE(result.ok());
  const ModelConfig& config = tiny_->model.config();
  int64_t layers = 0;
  for (int64_t l = 0; l < config.layers; ++l) layers += config.IsAttention(l) ? 0 : 1;
  ASSERT_EQ(routes.size(), 4u);
  for (const auto& of_token : routes) EXPECT_EQ(std::ssize(of_token), layers);
  int64_t rows = 0;
  for (const int64_t count : swarm_->Stats().expert_rows) rows += count;
  EXPECT_EQ(rows, layers * (5 + 4 - 1));
}

}  // namespace
}  // namespace omni
