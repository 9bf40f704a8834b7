// Sessions as handles: polled, snapshot, saved, gone on with, forked.
#include <condition_variable>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
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
using omni::testing::MakeRequest;
using omni::testing::PlainLoop;
using omni::testing::TinyModel;
using ::testing::HasSubstr;

constexpr char kHash[] = "0123456789abcdef0123456789abcdef";

class SwarmSessionsTest : public ::testing::Test {
 protected:
  SwarmSessionsTest() { Start({}); }
  void Start(SwarmOptions options) {
    swarm_ = nullptr;
    options.threads = 1;
    options.unread_tokens = 4;
    auto swarm = Swarm::Start(ActorsEnvironment::Actors(), tiny_.model.weights(), tiny_.model,
                              tiny_.tokenizer, testing::OnDevice(options));
    EXPECT_TRUE(swarm.ok()) << swarm.status();
    swarm_ = *std::move(swarm);
  }

  // The next session is served only when the one before is out of the way.
  void OneAtATime() {
    SwarmOptions options;
    options.coordinator.max_active = 1;
    Start(options);
  }

  static std::vector<TokenId> Join(std::vector<TokenId> a, const std::vector<TokenId>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  TinyModel tiny_;
  std::unique_ptr<Swarm> swarm_;
};

TEST_F(SwarmSessionsTest, AHandleIsToldWhenThereIsSomethingToPoll) {
  std::mutex mutex;
  std::condition_variable changed;
  int told = 0;
  const GenerateRequest request = MakeRequest(tiny_, 3, 20, 1);
  auto handle = swarm_->Submit(request, {nullptr, [&] {
                                           std::lock_guard lock(mutex);
                                           ++told;
                                           changed.notify_one();
                                         }});
  ASSERT_TRUE(handle.ok()) << handle.status();
  std::vector<TokenId> tokens;
  for (int seen = 0; true;) {
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return told > seen; });
      seen = told;
    }
    auto taken = (*handle)->Poll();
    for (const GenerateEvent& event : taken.events) {
      if (event.is_token) tokens.push_back(event.token);
    }
    if (!taken.result.has_value()) continue;
    ASSERT_TRUE(taken.result->ok()) << taken.result->status();
    break;
  }
  EXPECT_EQ(tokens, PlainLoop(tiny_, request));
}

TEST_F(SwarmSessionsTest, LettingGoOfAHandleCancelsItsSession) {
  OneAtATime();
  {
    auto handle = swarm_->Submit(MakeRequest(tiny_, 3, 1'000'000, 1));
    ASSERT_TRUE(handle.ok());
    (*handle)->Wait();
  }
  const GenerateRequest request = MakeRequest(tiny_, 3, 4, 2);
  auto result = swarm_->Generate(request, nullptr);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->tokens, PlainLoop(tiny_, request));
}

TEST_F(SwarmSessionsTest, AHandleMayOutliveItsSwarm) {
  auto handle = swarm_->Submit(MakeRequest(tiny_, 3, 1'000'000, 1));
  ASSERT_TRUE(handle.ok());
  (*handle)->Wait();
  swarm_ = nullptr;
  while (true) {
    auto taken = (*handle)->Poll();
    if (!taken.result.has_value()) continue;
    EXPECT_EQ((*taken.result)->reason, StopReason::kCancelled);
    break;
  }
  (*handle)->Cancel();
}

TEST_F(SwarmSessionsTest, AKeptSessionGoesOnWithTheTokensOfOneThatNeverStopped) {
  const GenerateRequest whole = MakeRequest(tiny_, 7, 30, 3);
  GenerateRequest part = whole;
  part.max_tokens = 11;
  part.keep = true;
  auto first = swarm_->Generate(part, nullptr);
  ASSERT_TRUE(first.ok() && first->snapshot != nullptr);
  const std::string bytes = first->snapshot->Save(kHash);
  auto restored = SessionSnapshot::Restore(tiny_.model.config(), kHash, bytes);
  ASSERT_TRUE(restored.ok()) << restored.status();
  GenerateRequest rest = restored->request;
  rest.max_tokens = 30;
  auto second =
      swarm_->Generate(rest, nullptr, std::make_shared<const SessionSnapshot>(*std::move(restored)));
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(Join(first->tokens, second->tokens), PlainLoop(tiny_, whole));
  EXPECT_EQ(first->text + second->text, swarm_->Generate(whole, nullptr)->text);
}

// Where a coordinator takes over from another, it knows the prompt, the settings and the answer so far.
TEST_F(SwarmSessionsTest, AfterKnownTokensComeThoseThatWouldHaveFollowed) {
  std::vector<SamplerSettings> settings(3);
  settings[0].temperature = 0;
  settings[1].temperature = 0.9f, settings[1].seed = 77;
  settings[2].temperature = 1.1f, settings[2].top_k = 20, settings[2].top_p = 0.9f;
  settings[2].repetition_penalty = 1.3f, settings[2].repetition_window = 8;
  for (const SamplerSettings& sampler : settings) {
    GenerateRequest whole = MakeRequest(tiny_, 7, 30, 3);
    whole.sampler = sampler;
    const auto want = swarm_->Generate(whole, nullptr);
    ASSERT_TRUE(want.ok()) << want.status();
    ASSERT_EQ(want->tokens, PlainLoop(tiny_, whole));
    for (std::ptrdiff_t known : {1, 8, 17, 29}) {
      GenerateRequest rest = whole;
      rest.generated.assign(want->tokens.begin(), want->tokens.begin() + known);
      std::vector<TokenId> told;
      const auto got = swarm_->Generate(rest, [&](const GenerateEvent& event) {
        if (event.is_token) told.push_back(event.token);
        return true;
      });
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ(Join(rest.generated, got->tokens), want->tokens);
      EXPECT_EQ(told, got->tokens);
      EXPECT_EQ(got->reason, want->reason);
    }
  }
}

TEST_F(SwarmSessionsTest, AfterKnownTokensAStopStringEndsTheAnswerWhereItWouldHave) {
  GenerateRequest whole = MakeRequest(tiny_, 7, 30, 3);
  std::vector<std::string> shown;  // with each token
  const auto collect = [&](const GenerateEvent& event) {
    if (event.is_token) shown.push_back(event.text);
    return true;
  };
  const std::string text = swarm_->Generate(whole, nullptr)->text;
  int stopped = 0;
  for (size_t begin = 4; begin + 4 < text.size(); begin += 5) {
    whole.stops = {text.substr(begin, 4)};
    shown.clear();
    const auto want = swarm_->Generate(whole, collect);
    ASSERT_TRUE(want.ok()) << want.status();
    stopped += want->reason == StopReason::kStop;
    const std::vector<std::string> before = shown;
    for (size_t known = 1; known < want->tokens.size(); known += 2) {
      GenerateRequest rest = whole;
      rest.generated.assign(want->tokens.begin(), want->tokens.begin() + static_cast<std::ptrdiff_t>(known));
      const auto got = swarm_->Generate(rest, nullptr);
      ASSERT_TRUE(got.ok()) << got.status();
      EXPECT_EQ(Join(rest.generated, got->tokens), want->tokens) << whole.stops[0] << " after " << known;
      EXPECT_EQ(got->reason, want->reason);
      std::string all;
      for (size_t i = 0; i < known; ++i) all += before[i];
      EXPECT_EQ(all + got->text, want->text);
    }
  }
  EXPECT_GE(stopped, 3);
}

TEST_F(SwarmSessionsTest, AForkGoesItsOwnWayAndTheOriginalOnItsOwn) {
  const GenerateRequest whole = MakeRequest(tiny_, 5, 40, 4);
  auto handle = swarm_->Submit(whole);
  ASSERT_TRUE(handle.ok());
  (*handle)->Wait();
  auto fork = swarm_->Snapshot((*handle)->id());
  ASSERT_TRUE(fork.ok()) << fork.status();
  GenerateRequest same = (*fork)->request, other = (*fork)->request;
  other.sampler.seed ^= 0x55;
  const auto want = PlainLoop(tiny_, whole);
  const std::vector<TokenId> so_far(want.begin(), want.begin() + (*fork)->generated);
  EXPECT_EQ(Join(so_far, swarm_->Generate(same, nullptr, *fork)->tokens), want);
  EXPECT_NE(Join(so_far, swarm_->Generate(other, nullptr, *fork)->tokens), want);
  std::vector<TokenId> original;
  while (true) {
    auto taken = (*handle)->Wait();
    if (!taken.result.has_value()) continue;
    original = (*taken.result)->tokens;
    break;
  }
  EXPECT_EQ(original, want);
}

TEST_F(SwarmSessionsTest, ANewPromptComesAfterWhatTheSessionSaid) {
  GenerateRequest first = MakeRequest(tiny_, 5, 6, 5);
  first.keep = true;
  auto said = swarm_->Generate(first, nullptr);
  ASSERT_TRUE(said.ok() && said->snapshot != nullptr);
  GenerateRequest next = MakeRequest(tiny_, 4, 8, 6);
  GenerateRequest all = next;
  all.prompt = Join(Join(first.prompt, said->tokens), next.prompt);
  auto answer = swarm_->Generate(next, nullptr, said->snapshot);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->tokens, PlainLoop(tiny_, all));
  EXPECT_EQ(answer->timings.prompt_tokens, 1 + 4);  // the last token had not been computed
}

TEST_F(SwarmSessionsTest, AKeptSessionThatIsCancelledCanGoOn) {
  GenerateRequest request = MakeRequest(tiny_, 5, 1'000, 7);
  request.keep = true;
  auto first = swarm_->Generate(request, [](const GenerateEvent& event) { return event.position < 12; });
  ASSERT_TRUE(first.ok() && first->snapshot != nullptr);
  EXPECT_EQ(first->reason, StopReason::kCancelled);
  GenerateRequest rest = first->snapshot->request;
  rest.max_tokens = first->snapshot->generated + 5;
  auto second = swarm_->Generate(rest, nullptr, first->snapshot);
  ASSERT_TRUE(second.ok()) << second.status();
  request.max_tokens = rest.max_tokens;
  EXPECT_EQ(Join(first->tokens, second->tokens), PlainLoop(tiny_, request));
}

TEST_F(SwarmSessionsTest, GoingOnBeyondMaxTokensIsRefusedWithTheNumbers) {
  GenerateRequest request = MakeRequest(tiny_, 5, 3, 8);
  request.keep = true;
  auto first = swarm_->Generate(request, nullptr);
  ASSERT_TRUE(first.ok() && first->snapshot != nullptr);
  const auto again = swarm_->Generate(first->snapshot->request, nullptr, first->snapshot);
  EXPECT_EQ(again.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(again.status().message()), HasSubstr("generated 3 tokens already"));
}

TEST_F(SwarmSessionsTest, ASnapshotOfAnEndedSessionIsNotFound) {
  EXPECT_EQ(swarm_->Snapshot(SessionId(77)).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SwarmSessionsTest, AReceiverThatThrowsEndsItsSessionAndNoOther) {
  const auto result = swarm_->Generate(MakeRequest(tiny_, 3, 1'000'000, 1), [](const GenerateEvent&) -> bool {
    throw std::runtime_error("screen is full");
  });
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("screen is full"));
  const GenerateRequest request = MakeRequest(tiny_, 3, 4, 2);
  EXPECT_EQ(swarm_->Generate(request, nullptr)->tokens, PlainLoop(tiny_, request));
}

TEST(SwarmLife, ASwarmMayEndBeforeItsActorsHaveBegun) {
  TinyModel tiny;
  SwarmOptions options;
  options.threads = 1;
  for (int i = 0; i < 200; ++i) {
    auto swarm = Swarm::Start(ActorsEnvironment::Actors(), tiny.model.weights(), tiny.model, tiny.tokenizer,
                              testing::OnDevice(options));
    ASSERT_TRUE(swarm.ok()) << swarm.status();
  }
  auto swarm = Swarm::Start(ActorsEnvironment::Actors(), tiny.model.weights(), tiny.model, tiny.tokenizer,
                            testing::OnDevice(options));
  const GenerateRequest request = MakeRequest(tiny, 3, 4, 2);
  EXPECT_EQ((*swarm)->Generate(request, nullptr)->tokens, PlainLoop(tiny, request));
}

}  // namespace
}  // namespace omni
