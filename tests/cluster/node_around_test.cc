// Answers with all that acts around a token, by several processes.
#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "tests/cluster/node_processes_fixture.h"

namespace omni::testing {
namespace {

// Perspectives, a polytope, a memory of contexts, and an adapter of the layers and of the experts' positions
// too: what three nodes say, one of which is killed, is what one node says, and so is all that they tell of
// it.
TEST_F(NodeProcessesTest, WithAllThatActsAroundATokenAKilledWorkerChangesNoByte) {
  StartCoordinator();
  StartWorker("w1");
  StartWorker("w2");
  for (const int session : {2, 6}) {
    AwaitSpread(2);
    ExpectAnswer(session, {{40, [&] { nodes_["w1"]->Kill(); }}});
    EXPECT_EQ(last_.reconnects, 0);
    EXPECT_EQ(told_, want_told_[static_cast<size_t>(session)]);
    EXPECT_EQ(last_.adapter_hash.size(), 32u);
    StartWorker("w1");
    // Each of them changes what is said.
    ClusterClient::Request with = RequestOf(session), without = with;
    without.adapter.clear();
    EXPECT_NE(Client()->Generate(without, nullptr)->tokens, last_.tokens);
    without = with;
    without.safety.clear();
    EXPECT_NE(Client()->Generate(without, nullptr)->tokens, last_.tokens);
    without = with;
    without.context_memory = false;
    EXPECT_NE(Client()->Generate(without, nullptr)->tokens, last_.tokens);
    without = with;
    without.perspectives.reset();
    EXPECT_NE(Client()->Generate(without, nullptr)->tokens, last_.tokens);
  }
}

}  // namespace
}  // namespace omni::testing
