// Who of several callers gets a place, a turn, and a place to wait.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/actors/coordinator_fixture.h"

namespace omni {
namespace {

using omni::testing::CoordinatorTest;
using omni::testing::MakeRequest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CallersTest : public CoordinatorTest {
 protected:
  static CoordinatorOptions Options() {
    CoordinatorOptions options;
    options.max_active = 4;
    options.max_queued = 8;
    options.max_rows = 8;
    options.prefill_rows_beside_decode = 1;
    return options;
  }
  CallersTest() : CoordinatorTest(Options()) {}

  struct Asked {
    std::shared_ptr<Session> session;
    std::shared_ptr<SessionChannel> channel;
    bool active() const { return session->state() != nullptr && !session->over(); }
    int64_t computed() const { return session->state() == nullptr ? 0 : session->state()->position(); }
  };
  Asked Ask(const std::string& caller, int64_t prompt, int64_t tokens) {
    GenerateRequest request = MakeRequest(tiny_, prompt, tokens, next_id_);
    request.caller = caller;
    auto channel = std::make_shared<SessionChannel>(10'000);
    auto session =
        std::make_shared<Session>(SessionId(next_id_++), request, tiny_.tokenizer, 1'000'000, channel);
    state_.Submit(session);
    return {session, channel};
  }
  static std::vector<bool> Active(const std::vector<Asked>& asked) {
    std::vector<bool> active;
    for (const Asked& a : asked) active.push_back(a.active());
    return active;
  }
};

TEST_F(CallersTest, AFreePlaceGoesToWhoeverHasFewestAndOfEqualsToTheFirst) {
  std::vector<Asked> many, others;
  for (int i = 0; i < 6; ++i) many.push_back(Ask("many", 1, i == 0 ? 2 : 1000));
  others.push_back(Ask("late", 1, 1000));
  others.push_back(Ask("", 1, 1000));  // nobody in particular is a caller like the others
  others.push_back(Ask("late", 1, 1000));
  // The first four came when nobody was active: each caller in turn, and then the one that came first.
  StepOnce();
  EXPECT_THAT(Active(many), ElementsAre(true, true, false, false, false, false));
  EXPECT_THAT(Active(others), ElementsAre(true, true, false));
  // many's first ends; it has one left then, as the others have: the one that came first is next.
  while (!many[0].session->over()) StepOnce();
  StepOnce();
  EXPECT_THAT(Active(many), ElementsAre(false, true, true, false, false, false));
  EXPECT_THAT(Active(others), ElementsAre(true, true, false));
  // Nobody's ends: nobody in particular waits no more, and of late's one and many's two, late's counts.
  state_.Cancel(others[1].session->id());
  StepOnce();
  EXPECT_THAT(Active(many), ElementsAre(false, true, true, false, false, false));
  EXPECT_THAT(Active(others), ElementsAre(true, false, true));
}

TEST_F(CallersTest, OneCallersSessionsKeepTheirOrder) {
  std::vector<Asked> asked;
  for (int i = 0; i < 8; ++i) asked.push_back(Ask("one", 1, 3));
  StepOnce();
  EXPECT_THAT(Active(asked), ElementsAre(true, true, true, true, false, false, false, false));
  RunAll();
  for (const Asked& a : asked) EXPECT_TRUE(a.session->over());
}

TEST_F(CallersTest, AFullQueueHasAReserveForThoseWhoHaveFewWaitingAndABound) {
  std::vector<Asked> many;
  for (int i = 0; i < 8; ++i) many.push_back(Ask("many", 1, 2));
  const Asked refused = Ask("many", 1, 2);
  ASSERT_TRUE(refused.session->over());
  EXPECT_EQ(End(*refused.channel)->status().code(), absl::StatusCode::kResourceExhausted);
  const Asked b = Ask("b", 1, 2);
  EXPECT_FALSE(b.session->over());
  EXPECT_TRUE(Ask("b", 1, 2).session->over());  // the last place of the reserve is for somebody else
  const Asked c = Ask("c", 1, 2);
  EXPECT_FALSE(c.session->over());
  const Asked full = Ask("d", 1, 2);
  ASSERT_TRUE(full.session->over());
  EXPECT_THAT(std::string(End(*full.channel)->status().message()), HasSubstr("10 requests are waiting"));
  // Nobody was displaced, and all are answered.
  RunAll();
  many.push_back(b);
  many.push_back(c);
  for (const Asked& asked : many) {
    const auto end = End(*asked.channel);
    ASSERT_TRUE(end.has_value() && end->ok());
    EXPECT_EQ((*end)->tokens.size(), 2u);
  }
}

TEST_F(CallersTest, PromptsOfAStepAreSharedOutOverCallersAndThenOverEachOnesOwn) {
  std::vector<Asked> many;
  for (int i = 0; i < 3; ++i) many.push_back(Ask("many", 500, 1));
  const Asked one = Ask("one", 500, 1);
  for (int step = 0; step < 6; ++step) StepOnce();
  EXPECT_EQ(one.computed(), 6 * 4);
  int64_t sum = 0;
  for (const Asked& m : many) {
    EXPECT_GE(m.computed(), 6);  // a third of the other half is one or two rows
    sum += m.computed();
  }
  EXPECT_EQ(sum, 6 * 4);
}

TEST_F(CallersTest, WithOneRowAStepCallersAndEachOnesPromptsTakeTurns) {
  const Asked decoding = Ask("decoding", 1, 1000);
  StepOnce();
  const Asked a = Ask("many", 500, 1), b = Ask("many", 500, 1), one = Ask("one", 500, 1);
  for (int step = 0; step < 12; ++step) StepOnce();
  EXPECT_EQ(one.computed(), 6);
  EXPECT_EQ(a.computed(), 3);
  EXPECT_EQ(b.computed(), 3);
}

}  // namespace
}  // namespace omni
