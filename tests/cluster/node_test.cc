#include "cluster/node.h"

#include <memory>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/model/session_state.h"
#include "tests/store/model/streamed_fixture.h"

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

}  // namespace
}  // namespace omni
