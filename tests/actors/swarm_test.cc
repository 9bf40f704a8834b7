#include "actors/swarm.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/actors/actors_environment.h"
#include "tests/actors/on_device.h"
#include "tests/actors/testing.h"
#include "tests/testing/faulty_link.h"

namespace omni {
namespace {

using omni::testing::ActorsEnvironment;
using omni::testing::FaultyLinks;
using omni::testing::HookedSource;
using omni::testing::LinkFault;
using omni::testing::MakeRequest;
using omni::testing::PlainLoop;
using omni::testing::TinyModel;
using ::testing::HasSubstr;

SwarmOptions Options(int threads, int64_t max_context = SwarmOptions().max_context) {
  SwarmOptions options;
  options.threads = threads;
  options.max_context = max_context;
  return options;
}

std::unique_ptr<Swarm> StartOn(TinyModel& tiny, ExpertSource& experts, const SwarmOptions& options) {
  auto swarm = Swarm::Start(ActorsEnvironment::Actors(), tiny.model.weights(), experts, tiny.tokenizer,
                            testing::OnDevice(options, &experts != &tiny.model));
  EXPECT_TRUE(swarm.ok()) << swarm.status();
  return *std::move(swarm);
}

std::unique_ptr<Swarm> StartOn(TinyModel& tiny, int threads = 1) {
  SwarmOptions options;
  options.threads = threads;
  return StartOn(tiny, tiny.model, options);
}

std::vector<TokenId> Tokens(Swarm& swarm, const GenerateRequest& request) {
  auto result = swarm.Generate(request, nullptr);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? result->tokens : std::vector<TokenId>();
}

// Something that one thread waits for and another lets happen.
class Gate {
 public:
  void Open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

TEST(Swarm, GivesTheTokensOfAPlainLoop) {
  TinyModel tiny;
  auto swarm = StartOn(tiny);
  for (uint64_t seed : {1, 2}) {
    for (int64_t prompt : {1, 7, 150}) {
      const GenerateRequest request = MakeRequest(tiny, prompt, 20, seed);
      EXPECT_EQ(Tokens(*swarm, request), PlainLoop(tiny, request)) << "prompt of " << prompt;
    }
  }
}

// Experts that come later, from another thread and in an order of its own, two of three with a part of their
// tiles at once, one with another part before all; one in `fail_every` does not come.
class LateSource : public ExpertSource {
 public:
  explicit LateSource(ExpertSource& inner, int fail_every = 0)
      : inner_(inner), fail_every_(fail_every), thread_([this] { Deliver(); }) {}
  ~LateSource() override {
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_one();
  }

  bool resident() const override { return false; }
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override {
    return inner_.Acquire(layer, expert);
  }
  void Request(RequesterId, LayerId layer, ExpertId expert, const OnReady& on_ready,
               const OnPartial& on_partial) override {
    auto tiles = inner_.Acquire(layer, expert);
    const uint64_t number = requests_++;
    if (fail_every_ > 0 && number % static_cast<uint64_t>(fail_every_) == 7)
      tiles = absl::DataLossError("tile 1 of expert 2, layer 0 fails its checksum");
    const bool parts = tiles.ok() && number % 3 > 0;
    if (parts) on_partial(Part(*tiles, number));
    {
      std::lock_guard lock(mutex_);
      waiting_.push_back([=, part = parts && number % 3 == 1 ? on_partial : OnPartial()]() mutable {
        if (part) part(Part(*tiles, number + 1));
        part = nullptr;
        on_ready(tiles);
      });
    }
    changed_.notify_one();
  }
  void ReadAhead(RequesterId, LayerId, std::span<const ExpertId>, Foresight) override { ++read_ahead_; }
  int64_t read_ahead() const { return read_ahead_; }

 private:
  static ExpertTiles Part(const ExpertTiles& all, uint64_t number) {
    auto part = std::make_shared<std::vector<const uint8_t*>>(all.tiles.begin(), all.tiles.end());
    for (size_t t = 0; t < part->size(); ++t) {
      if ((t + number) % 2 == 0) (*part)[t] = nullptr;
    }
    return {*part, part};
  }

  void Deliver() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return over_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      const size_t which = picked_++ * 7 % waiting_.size();
      const auto deliver = std::move(waiting_[which]);
      waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(which));
      lock.unlock();
      deliver();
      lock.lock();
    }
  }

  ExpertSource& inner_;
  const int fail_every_;
  std::atomic<uint64_t> requests_{0};
  std::atomic<int64_t> read_ahead_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::function<void()>> waiting_;
  size_t picked_ = 0;
  bool over_ = false;
  std::jthread thread_;
};

TEST(Swarm, GivesTheSameTokensWhenExpertsComeLate) {
  TinyModel tiny;
  LateSource late(tiny.model);
  for (int threads : {1, 2}) {
    SwarmOptions options = Options(threads);
    options.coordinator.predict_ahead = 2;
    auto swarm = StartOn(tiny, late, options);
    std::vector<std::jthread> callers;
    for (uint64_t i = 0; i < 4; ++i) {
      callers.emplace_back([&, i] {
        const GenerateRequest request = MakeRequest(tiny, 1 + 13 * static_cast<int64_t>(i), 20, i);
        EXPECT_EQ(Tokens(*swarm, request), PlainLoop(tiny, request)) << i;
      });
    }
    callers.clear();
    const SwarmStats stats = swarm->Stats();
    for (int ahead : {0, 1}) {
      EXPECT_GT(stats.predicted[ahead], 0);
      EXPECT_LE(stats.predicted_right[ahead], stats.predicted[ahead]);
    }
  }
  EXPECT_GT(late.read_ahead(), 0);
}

TEST(Swarm, AnExpertThatCannotBeReadEndsItsSessionWithTheReasonAndNoOther) {
  TinyModel tiny;
  LateSource late(tiny.model, 40);
  auto swarm = StartOn(tiny, late, Options(1));
  int failed = 0, finished = 0;
  for (uint64_t i = 0; i < 20; ++i) {
    const GenerateRequest request = MakeRequest(tiny, 2, 4, i);
    const auto result = swarm->Generate(request, nullptr);
    if (result.ok()) {
      ++finished;
      EXPECT_EQ(result->tokens, PlainLoop(tiny, request));
    } else {
      ++failed;
      EXPECT_THAT(result.status().message(), HasSubstr("tile 1 of expert 2, layer 0"));
    }
  }
  EXPECT_GT(failed, 0);
  EXPECT_GT(finished, 0);
}

// Every row to one expert, known before its layer starts.
class AlwaysExpert : public RoutePolicy {
 public:
  explicit AlwaysExpert(int32_t expert) : expert_(expert) {}
  std::optional<ExpertId> KnownBefore(LayerId, int64_t position) override {
    positions_.push_back(position);
    return expert_;
  }
  ExpertId Choose(const RouteChoice& choice) override {
    EXPECT_LT(choice.nearest.value, choice.experts);
    EXPECT_EQ(NearestExpert(choice.point, choice.positions, nullptr, choice.experts), choice.nearest);
    return expert_;
  }
  const std::vector<int64_t>& positions() const { return positions_; }

 private:
  ExpertId expert_;
  std::vector<int64_t> positions_;
};

TEST(Swarm, APolicyDecidesTheRoutesOfItsOwnRowsAlone) {
  TinyModel tiny;
  LateSource late(tiny.model);
  auto swarm = StartOn(tiny, late, Options(1));
  AlwaysExpert policy(1);
  GenerateRequest request = MakeRequest(tiny, 2, 4, 1);
  request.route_policy = &policy;
  Tokens(*swarm, request);
  const SwarmStats stats = swarm->Stats();
  for (size_t i = 0; i < stats.expert_rows.size(); ++i) {
    if (static_cast<int64_t>(i) % stats.experts == 1) continue;
    EXPECT_EQ(stats.expert_rows[i], 0) << i;
  }
  EXPECT_GT(late.read_ahead(), 0);
  EXPECT_EQ(policy.positions().front(), 0);
  EXPECT_EQ(policy.positions().back(), 2 + 4 - 2);  // the last token drawn is not computed
  const GenerateRequest other = MakeRequest(tiny, 2, 4, 1);
  EXPECT_EQ(Tokens(*swarm, other), PlainLoop(tiny, other));
}

TEST(Swarm, GivesTheSameTokensOnOddShapesAndGreedily) {
  TinyModel tiny(omni::testing::OddConfig());
  auto swarm = StartOn(tiny, 2);
  GenerateRequest request = MakeRequest(tiny, 9, 30, 3);
  request.sampler.temperature = 0;
  EXPECT_EQ(Tokens(*swarm, request), PlainLoop(tiny, request));
}

TEST(Swarm, GivesConcurrentSessionsTheirOwnTokens) {
  TinyModel tiny;
  for (int threads : {1, 2}) {
    SwarmOptions options;
    options.threads = threads;
    options.coordinator.max_active = 4;  // fewer than callers: some wait
    options.coordinator.max_rows = 8;
    options.coordinator.prefill_rows_beside_decode = 3;
    auto swarm = StartOn(tiny, tiny.model, options);
    constexpr size_t kCallers = 7;
    std::vector<std::vector<TokenId>> got(kCallers);
    {
      std::vector<std::jthread> callers;
      for (size_t i = 0; i < kCallers; ++i) {
        callers.emplace_back(
            [&, i] { got[i] = Tokens(*swarm, MakeRequest(tiny, 3 + 11 * static_cast<int64_t>(i), 16, i)); });
      }
    }
    for (size_t i = 0; i < kCallers; ++i) {
      EXPECT_EQ(got[i], PlainLoop(tiny, MakeRequest(tiny, 3 + 11 * static_cast<int64_t>(i), 16, i))) << i;
    }
    EXPECT_EQ(swarm->Stats().sessions, static_cast<int64_t>(kCallers));
  }
}

TEST(Swarm, StreamsEveryTokenInOrderToASlowClient) {
  TinyModel tiny;
  SwarmOptions options;
  options.threads = 1;
  options.unread_tokens = 2;
  auto swarm = StartOn(tiny, tiny.model, options);
  const GenerateRequest request = MakeRequest(tiny, 5, 40, 4);
  std::vector<TokenId> streamed;
  std::string text;
  auto result = swarm->Generate(request, [&](const GenerateEvent& event) {
    if (event.is_token) {
      streamed.push_back(event.token);
      EXPECT_EQ(event.position, static_cast<int64_t>(request.prompt.size() + streamed.size()));
    }
    text += event.text;
    return true;
  });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(streamed, result->tokens);
  EXPECT_EQ(text, result->text);
  EXPECT_EQ(streamed, PlainLoop(tiny, request));
}

TEST(Swarm, SurvivesALinkThatBreaksWithARequestInHand) {
  TinyModel tiny;
  const GenerateRequest request = MakeRequest(tiny, 20, 20, 5);
  const std::vector<TokenId> expected = PlainLoop(tiny, request);
  SwarmOptions options;
  options.threads = 1;
  std::atomic<int> jobs{0};
  options.make_link = FaultyLinks([&](const RegionRequest& request) {
    return request.attempt == 1 && ++jobs % 5 == 0 ? LinkFault::kBreak : LinkFault::kNone;
  });
  auto swarm = StartOn(tiny, tiny.model, options);
  EXPECT_EQ(Tokens(*swarm, request), expected);
  EXPECT_GT(swarm->Stats().restarts, 3);
  EXPECT_EQ(swarm->Stats().restarts, swarm->Stats().retries);
}

TEST(Swarm, GivesUpOnARegionThatIsAlwaysLostButServesOthersAfterwards) {
  TinyModel tiny;
  std::atomic<bool> broken{true};
  SwarmOptions options;
  options.threads = 1;
  options.make_link =
      FaultyLinks([&](const RegionRequest&) { return broken ? LinkFault::kBreak : LinkFault::kNone; });
  auto swarm = StartOn(tiny, tiny.model, options);
  const GenerateRequest request = MakeRequest(tiny, 4, 4, 6);
  auto failed = swarm->Generate(request, nullptr);
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("failed 3 times"));
  EXPECT_THAT(std::string(failed.status().message()), HasSubstr("injected break"));
  broken = false;
  EXPECT_EQ(Tokens(*swarm, request), PlainLoop(tiny, request));
}

TEST(Swarm, ReplacesARegionThatStaysSilent) {
  TinyModel tiny;
  SwarmOptions options;
  options.threads = 1;
  options.coordinator.calls.timeout = std::chrono::milliseconds(20);
  std::atomic<int> jobs{0};
  options.make_link = FaultyLinks([&](const RegionRequest& request) {
    return request.attempt == 1 && ++jobs == 7 ? LinkFault::kLose : LinkFault::kNone;
  });
  auto swarm = StartOn(tiny, tiny.model, options);
  const GenerateRequest request = MakeRequest(tiny, 6, 10, 7);
  EXPECT_EQ(Tokens(*swarm, request), PlainLoop(tiny, request));
  EXPECT_EQ(swarm->Stats().timeouts, 1);
}

TEST(Swarm, ReportsATimeoutThatNoRetryCures) {
  TinyModel tiny;
  SwarmOptions options;
  options.threads = 1;
  options.coordinator.calls.timeout = std::chrono::milliseconds(8);
  options.coordinator.calls.attempts = 2;
  options.make_link = FaultyLinks([](const RegionRequest&) { return LinkFault::kLose; });
  auto swarm = StartOn(tiny, tiny.model, options);
  auto result = swarm->Generate(MakeRequest(tiny, 6, 10, 7), nullptr);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("no answer within 8 ms"));
}

TEST(Swarm, FailsOnlyTheSessionWhoseExpertCannotBeRead) {
  TinyModel tiny;
  const GenerateRequest good = MakeRequest(tiny, 12, 120, 8);
  GenerateRequest bad = MakeRequest(tiny, 12, 400, 9);
  // An expert that the first session never asks for, and the second does.
  std::vector<bool> used(static_cast<size_t>(tiny.model.config().layers * tiny.model.config().num_experts()));
  const auto index = [&](LayerId l, ExpertId e) {
    return l.index() * static_cast<size_t>(tiny.model.config().num_experts()) + e.index();
  };
  {
    HookedSource recorder(tiny.model, [&](LayerId l, ExpertId e) {
      used[index(l, e)] = true;
      return absl::OkStatus();
    });
    auto swarm = StartOn(tiny, recorder, Options(1));
    Tokens(*swarm, good);
  }
  HookedSource faulty(tiny.model, [&](LayerId l, ExpertId e) {
    return used[index(l, e)] ? absl::OkStatus() : absl::DataLossError("tile 3 fails its checksum");
  });
  auto swarm = StartOn(tiny, faulty, Options(1));
  std::vector<TokenId> good_tokens;
  absl::Status bad_status;
  {
    std::jthread first([&] { good_tokens = Tokens(*swarm, good); });
    std::jthread second([&] { bad_status = swarm->Generate(bad, nullptr).status(); });
  }
  EXPECT_EQ(good_tokens, PlainLoop(tiny, good));
  EXPECT_EQ(bad_status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(bad_status.message()), HasSubstr("checksum"));
}

TEST(Swarm, CancelsWhenTheCallbackSaysSo) {
  TinyModel tiny;
  auto swarm = StartOn(tiny);
  int seen = 0;
  auto result = swarm->Generate(MakeRequest(tiny, 3, 1'000'000, 10), [&](const GenerateEvent& event) {
    seen += event.is_token;
    return seen < 5;
  });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->reason, StopReason::kCancelled);
  EXPECT_EQ(seen, 5);
  EXPECT_GE(result->tokens.size(), 5u);
}

TEST(Swarm, CancelsFromAnotherThread) {
  TinyModel tiny;
  auto swarm = StartOn(tiny);
  std::stop_source stop;
  Gate running;
  std::optional<absl::StatusOr<GenerateResult>> result;
  std::jthread caller([&] {
    GenerateRequest request = MakeRequest(tiny, 3, 1'000'000, 10);
    request.cancel = stop.get_token();
    result = swarm->Generate(request, [&](const GenerateEvent& event) {
      if (event.is_token) running.Open();
      return true;
    });
  });
  running.Wait();
  stop.request_stop();
  caller.join();
  ASSERT_TRUE(result->ok()) << result->status();
  EXPECT_EQ((*result)->reason, StopReason::kCancelled);
}

TEST(Swarm, ShutsDownWithSessionsActive) {
  TinyModel tiny;
  auto swarm = StartOn(tiny, 2);
  Gate running;
  std::optional<absl::StatusOr<GenerateResult>> result;
  std::jthread caller([&] {
    result = swarm->Generate(MakeRequest(tiny, 3, 1'000'000, 12), [&](const GenerateEvent& event) {
      if (event.is_token) running.Open();
      return true;
    });
  });
  running.Wait();
  swarm.reset();
  caller.join();
  ASSERT_TRUE(result->ok()) << result->status();
  EXPECT_EQ((*result)->reason, StopReason::kCancelled);
}

TEST(Swarm, RefusesBadRequestsAtOnce) {
  TinyModel tiny;
  auto swarm = StartOn(tiny, tiny.model, Options(1, 10));
  GenerateRequest empty = MakeRequest(tiny, 3, 5, 1);
  empty.prompt.clear();
  GenerateRequest longer = MakeRequest(tiny, 10, 5, 1);
  GenerateRequest foreign = MakeRequest(tiny, 3, 5, 1);
  foreign.prompt[1] = TokenId(static_cast<int32_t>(tiny.model.config().vocab));
  GenerateRequest hot = MakeRequest(tiny, 3, 5, 1);
  hot.sampler.temperature = -1;
  for (const GenerateRequest& request : {empty, longer, foreign, hot}) {
    EXPECT_EQ(swarm->Generate(request, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
  }
  auto full = swarm->Generate(MakeRequest(tiny, 8, 5, 1), nullptr);
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_EQ(full->reason, StopReason::kContext);
  EXPECT_EQ(full->tokens.size(), 2u);
}

TEST(Swarm, CountsWhatItRouted) {
  TinyModel tiny;
  auto swarm = StartOn(tiny);
  Tokens(*swarm, MakeRequest(tiny, 9, 6, 1));
  const SwarmStats stats = swarm->Stats();
  const ModelConfig& config = tiny.model.config();
  int64_t rows = 0;
  for (int64_t n : stats.expert_rows) rows += n;
  int64_t expert_layers = 0;
  for (int64_t l = 0; l < config.layers; ++l) expert_layers += !config.IsAttention(l);
  EXPECT_EQ(rows, expert_layers * (9 + 5));  // the last token drawn is not computed
  EXPECT_EQ(stats.decode.rows + stats.mixed.rows, 9 + 5);
  EXPECT_EQ(stats.prompt_rows, 9);
  EXPECT_EQ(stats.tokens, 6);
  for (int64_t l = 0; l < config.layers; ++l) {
    const int64_t last = stats.last_experts[static_cast<size_t>(l)];
    EXPECT_EQ(last < 0, config.IsAttention(l)) << l;
    if (last < 0) continue;
    EXPECT_GT(stats.expert_rows[static_cast<size_t>(l * stats.experts + last)], 0) << l;
  }
  EXPECT_EQ(stats.decode.steps, 5);
  // A device that holds the experts asks no region.
  const int64_t asked = stats.device.has_value() ? 0 : expert_layers;
  EXPECT_EQ(stats.decode.hops, 5 * (2 * asked + 1));
  EXPECT_GT(stats.decode.wall, stats.decode.compute);
  EXPECT_GT(stats.decode.compute.count(), 0);
}

// Whether every thread of this process but the calling one waits for something.
bool OthersSleep() {
  const std::string self = std::to_string(gettid());
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    if (task.path().filename() == self) continue;
    std::ifstream file(task.path() / "stat");
    std::string line;
    std::getline(file, line);
    const size_t name_end = line.rfind(')');
    if (name_end != std::string::npos && line[name_end + 2] == 'R') return false;
  }
  return true;
}

TEST(Swarm, SleepsWhenIdle) {
  TinyModel tiny;
  auto swarm = StartOn(tiny, 2);
  Tokens(*swarm, MakeRequest(tiny, 3, 3, 1));
  // A thread that polls would be seen running again and again.
  int in_a_row = 0;
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (in_a_row < 2000 && std::chrono::steady_clock::now() < limit) {
    in_a_row = OthersSleep() ? in_a_row + 1 : 0;
  }
  EXPECT_EQ(in_a_row, 2000);
}

TEST(Swarm, RefusesOptionsThatCannotWork) {
  TinyModel tiny;
  SwarmOptions options;
  options.coordinator.max_active = 100;
  options.coordinator.max_rows = 64;
  EXPECT_EQ(Swarm::Start(ActorsEnvironment::Actors(), tiny.model.weights(), tiny.model, tiny.tokenizer,
                         testing::OnDevice(options))
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      Swarm::Start(ActorsEnvironment::Actors(), tiny.model.weights(), tiny.model, tiny.tokenizer, Options(-1))
          .status()
          .code(),
      absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace omni
