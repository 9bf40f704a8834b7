#include "cluster/node.h"

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/model/session_state.h"
#include "tests/store/model/streamed_fixture.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::HasSubstr;

class NodeTest : public testing::StreamedTest {
 protected:
  void SetUp() override { Pack(testing::StreamedConfig()); }

  // A node whose model is kept whole under the least budget with which it is, and `more` bytes.
  absl::StatusOr<std::unique_ptr<Node>> Start(int64_t more, SwarmOptions swarm = {}) {
    NodeOptions options;
    options.model = temp_ / "m";
    options.open.ram_bytes = *WholeModelBytes(options.model, options.open) + more;
    options.swarm = std::move(swarm);
    options.swarm.threads = 1;
    return Node::Start(*ActorSystem::Start(), options);
  }
  int64_t state() const { return SessionState::BytesFor(config_); }
  static absl::Status Generate(Node& node) {
    GenerateRequest request;
    request.prompt = {TokenId(1), TokenId(2)};
    request.max_tokens = 2;
    return node.swarm().Generate(request, nullptr).status();
  }
};

TEST_F(NodeTest, StatesOfSessionsAreAdmittedByWhatAResidentModelLeaves) {
  for (const int64_t sessions : {1, 3}) {
    const auto node = Start((sessions - 1) * state());
    ASSERT_TRUE(node.ok()) << node.status();
    EXPECT_EQ((*node)->model().cache(), nullptr);
    ASSERT_TRUE((*node)->swarm().options().coordinator.state_bytes.has_value());
    EXPECT_EQ(*(*node)->swarm().options().coordinator.state_bytes / state(), sessions);
    EXPECT_EQ(Generate(**node), absl::OkStatus());
  }
}

TEST_F(NodeTest, ASessionThatDoesNotFitBesideAResidentModelIsRefused) {
  SwarmOptions swarm;
  swarm.coordinator.state_bytes = state() - 1;
  const auto node = Start(0, swarm);
  ASSERT_TRUE(node.ok()) << node.status();
  const absl::Status refused = Generate(**node);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("a session's state takes"));
}

TEST_F(NodeTest, ABudgetThatTheResidentModelTakesWholeIsRefused) {
  EXPECT_TRUE(absl::IsResourceExhausted(Start(-state()).status()));
}

struct Said {
  std::vector<TokenId> tokens;
  std::vector<float> probabilities;
  bool operator==(const Said&) const = default;
};

// Decoding with caches of all sizes, of models of every kind of routes.
class CacheSizesTest : public testing::StreamedTest, public ::testing::WithParamInterface<RouteFrom> {
 protected:
  void SetUp() override {
    ModelConfig config =
        GetParam() == RouteFrom::kToken ? testing::StreamedConfig() : testing::AddressConfig();
    config.route_from = GetParam();
    config.f = 9 * kTileNeurons;
    Pack(config);
  }
  std::unique_ptr<Node> Start(std::optional<int64_t> cache_bytes) {
    NodeOptions options;
    options.model = temp_ / "m";
    if (cache_bytes.has_value()) {
      options.open.residency = Residency::kStreamed;
      options.open.cache_bytes = cache_bytes;
    }
    options.swarm.threads = 2;
    options.swarm.coordinator.predict_ahead = 2;
    auto node = Node::Start(*ActorSystem::Start(), options);
    EXPECT_TRUE(node.ok()) << node.status();
    return node.ok() ? *std::move(node) : nullptr;
  }
  Said Decode(Node& node) {
    GenerateRequest request;
    for (int32_t i = 0; i < 21; ++i) request.prompt.push_back(TokenId(31 * i % 250));
    request.max_tokens = 40;
    request.sampler.temperature = 1;
    request.sampler.seed = 5;
    request.stop_at_end_of_text = false;
    Said said;
    const auto result = node.swarm().Generate(request, [&](const GenerateEvent& event) {
      if (event.is_token) said.probabilities.push_back(event.probability);
      return true;
    });
    EXPECT_TRUE(result.ok()) << result.status();
    if (result.ok()) said.tokens = result->tokens;
    return said;
  }
  int64_t least() const { return 2 * tiles_per_expert() * tile_bytes_; }
};

INSTANTIATE_TEST_SUITE_P(Routes, CacheSizesTest,
                         ::testing::Values(RouteFrom::kToken, RouteFrom::kAhead, RouteFrom::kAddress),
                         [](const auto& info) {
                           return info.param == RouteFrom::kToken   ? "Token"
                                  : info.param == RouteFrom::kAhead ? "Ahead"
                                                                    : "Address";
                         });

TEST_P(CacheSizesTest, NoSizeAndNoChangeOfSizeChangesAByteOfTheOutput) {
  const Said whole = Decode(*Start(std::nullopt));
  ASSERT_EQ(whole.tokens.size(), 40u);
  int64_t hand_overs = 0;
  for (const int64_t size : {least(), 2 * least(), 5 * least(), int64_t{1} << 30}) {
    const std::unique_ptr<Node> node = Start(size);
    EXPECT_EQ(Decode(*node), whole) << size;
    hand_overs += node->model().cache()->stats().hand_overs;
  }
  EXPECT_GT(hand_overs, 100);  // tiles that were there were computed while others came

  const std::unique_ptr<Node> node = Start(3 * least());
  std::atomic<int> resized = 0;
  std::jthread resizing([&](const std::stop_token& stop) {
    for (int i = 0; !stop.stop_requested(); ++i) {
      const int64_t sizes[] = {least(), 4 * least(), 2 * least(), int64_t{1} << 30};
      EXPECT_EQ(node->ResizeCache(sizes[i % 4]), absl::OkStatus());
      ++resized;
    }
  });
  while (resized == 0) std::this_thread::yield();
  for (int round = 0; round < 4 || resized < 20; ++round) {
    ASSERT_LT(round, 1000);
    ASSERT_EQ(Decode(*node), whole) << "round " << round << ", resized " << resized << " times";
  }
}

TEST_P(CacheSizesTest, AModelThatIsKeptWholeHasNoCacheToResize) {
  const absl::Status refused = Start(std::nullopt)->ResizeCache(1 << 20);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("kept whole in memory"));
}

}  // namespace
}  // namespace omni
