// Sessions with polytopes and memories of contexts, beside others and with perspectives: what they say is
// what a plain loop of one row at a time says, wherever they are broken off and gone on with.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/around/context_stage.h"
#include "engine/around/safety_stage.h"
#include "tests/actors/swarm_fixture.h"
#include "tests/testing/polytopes.h"

namespace omni {
namespace {

using omni::testing::FixedPolytopes;
using omni::testing::kOnDevice;
using omni::testing::PlainLoop;
using omni::testing::PolytopeBytes;
using omni::testing::RandomPolytope;
using omni::testing::SwarmFixture;
using omni::testing::Told;
using ::testing::HasSubstr;

constexpr char kHash[] = "0123456789abcdef0123456789abcdef";

class SwarmAroundTest : public SwarmFixture {
 protected:
  SwarmAroundTest() { Start({}); }
  void Start(SwarmOptions options) {
    options.polytopes = &polytopes_;
    options.coordinator.max_rows = 24;
    SwarmFixture::Start(std::move(options));
  }

  GenerateRequest Request(bool polytope, bool contexts, uint64_t seed = 1, int64_t prompt = 40,
                          int64_t tokens = 40) {
    GenerateRequest request = HotRequest(prompt, tokens, seed);
    // A text that says things again.
    for (size_t i = 8; i < request.prompt.size(); ++i) request.prompt[i] = request.prompt[i % 8];
    if (polytope) request.safety.polytope = "tight";
    request.context_memory = contexts;
    return request;
  }

  // One row a pass, one session, no stage, no actor.
  std::vector<Told> Plain(const GenerateRequest& request) {
    WorkerPool pool(1);
    CpuDecoder decoder(tiny_.model.weights(), pool);
    SessionState state(tiny_.model.config());
    std::optional<SessionContexts> contexts;
    if (request.context_memory) {
      contexts.emplace(
          std::make_shared<const ContextCode>(tiny_.model.config().d, tiny_.model.config().vocab), "");
    }
    std::vector<TokenId> tokens = request.prompt;
    std::vector<Told> told;
    std::vector<float> mixed;
    for (size_t i = 0; std::ssize(told) < request.max_tokens; ++i) {
      const BatchRow row{&state, tokens[i], true};
      auto logits = RunBatch(decoder, tiny_.model.config(), tiny_.model, pool, {&row, 1});
      EXPECT_TRUE(logits.ok()) << logits.status();
      TokenRow one;
      if (!request.safety.polytope.empty()) {
        const auto held = polytopes_.Take(request.safety);
        const auto projection = held->projector->Project(decoder.hidden(0));
        EXPECT_TRUE(projection.ok()) << projection.status();
        one.notes.safety = SafetyNote{static_cast<float>(projection->distance),
                                      static_cast<int32_t>(projection->active.size())};
        EXPECT_TRUE(decoder.StartLogits());
        logits = decoder.logits();
      }
      one.history = std::span<const TokenId>(tokens).first(i + 1);
      one.hidden = decoder.hidden(0);
      one.logits = one.model_logits = *logits;
      one.known = i + 1 < tokens.size();
      if (contexts.has_value() && contexts->Read(one, decoder.ops(), mixed)) one.logits = mixed;
      if (one.known) continue;
      told.push_back({Sample(one.logits, tokens, tokens.size(), request.sampler).token, one.notes, {}});
      tokens.push_back(told.back().token);
    }
    return told;
  }

  static int Moved(const std::vector<Told>& told) {
    int moved = 0;
    for (const Told& t : told) moved += t.notes.safety.has_value() && t.notes.safety->distance > 0;
    return moved;
  }
  static int Recalled(const std::vector<Told>& told) {
    int recalled = 0;
    for (const Told& t : told) recalled += t.notes.contexts.has_value() && t.notes.contexts->order > 0;
    return recalled;
  }

  FixedPolytopes polytopes_{PolytopeBytes({RandomPolytope("tight", tiny_.model.config().d, 40, 0.5f, 5),
                                           RandomPolytope("wide", tiny_.model.config().d, 40, 1e6f, 6)})};
};

TEST_F(SwarmAroundTest, ASessionSaysWhatAPlainLoopSays) {
  for (const auto& [polytope, contexts] : {std::pair(true, false), {false, true}, {true, true}}) {
    const GenerateRequest request = Request(polytope, contexts);
    const std::vector<Told> want = Plain(request);
    ExpectSame(Say(request), want);
    EXPECT_NE(Tokens(want), PlainLoop(tiny_, request));  // it does something
    EXPECT_EQ(Moved(want) > 5, polytope);
    EXPECT_EQ(Recalled(want) > 5, contexts);
  }
}

TEST_F(SwarmAroundTest, WhereNothingIsAskedForOrNothingIsOutsideEveryBitStays) {
  const GenerateRequest plain = Request(false, false);
  const std::vector<Told> off = Say(plain);
  EXPECT_EQ(Tokens(off), PlainLoop(tiny_, plain));
  for (const Told& t : off) EXPECT_FALSE(t.notes.safety.has_value() || t.notes.contexts.has_value());
  GenerateRequest wide = plain;
  wide.safety.polytope = "wide";
  const std::vector<Told> inside = Say(wide);
  EXPECT_EQ(Tokens(inside), Tokens(off));
  EXPECT_EQ(Moved(inside), 0);
  EXPECT_TRUE(inside.front().notes.safety.has_value());
}

TEST_F(SwarmAroundTest, SessionsOfAllKindsBesideEachOtherSayWhatEachSaysAlone) {
  std::vector<GenerateRequest> requests;
  for (uint64_t seed = 1; seed <= (kOnDevice ? 3 : 6); ++seed) {
    requests.push_back(Request(seed % 2 == 0, seed % 3 == 0, seed, 20 + static_cast<int64_t>(seed) * 7, 30));
    if (seed % 4 == 2) requests.back().perspectives = *ParsePerspectives("far,use=average,every=3,examine=2");
  }
  GenerateRequest all = Request(true, true, 9, 33, 30);
  all.perspectives = *ParsePerspectives("far,use=majority,every=2,examine=3,tau=0");
  requests.push_back(all);
  std::vector<std::vector<Told>> want;
  for (const GenerateRequest& request : requests) want.push_back(Say(request));
  const std::vector<std::vector<Told>> got = SayBesideEachOther(requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(i);
    ExpectSame(got[i], want[i]);
    if (requests[i].perspectives.has_value()) continue;
    ExpectSame(want[i], Plain(requests[i]));
  }
}

TEST_F(SwarmAroundTest, WhereverItIsBrokenOffItGoesOnAsItWouldHave) {
  for (const char* perspectives : {"", "far,use=average,every=2", "far,use=majority,every=2,tau=0"}) {
    SCOPED_TRACE(perspectives);
    if (kOnDevice && std::string(perspectives).find("majority") == std::string::npos) continue;
    GenerateRequest whole = Request(true, true, 3);
    if (*perspectives != '\0') whole.perspectives = *ParsePerspectives(perspectives);
    const std::vector<Told> want = Say(whole);
    GenerateRequest part = whole;
    part.max_tokens = 13;
    part.keep = true;
    const std::vector<Told> first = Say(part);
    const SnapshotPtr kept = result_->snapshot;
    ASSERT_NE(kept, nullptr);
    ASSERT_NE(kept->contexts, nullptr);
    EXPECT_GT(kept->contexts->bytes(), 20'000);
    EXPECT_LE(kept->contexts->bytes(), SessionContexts::MostBytes(std::ssize(kept->tokens)));
    // With its memory, twice: the one has not changed what the other goes on from.
    GenerateRequest rest = kept->request;
    rest.max_tokens = whole.max_tokens;
    ExpectSame(Join(first, Say(rest, kept)), want);
    EXPECT_EQ(result_->timings.prompt_tokens, 1);
    ExpectSame(Join(first, Say(rest, kept)), want);
    // Its bytes hold no memory: it is read again.
    auto restored = SessionSnapshot::Restore(tiny_.model.config(), kHash, kept->Save(kHash));
    ASSERT_TRUE(restored.ok()) << restored.status();
    EXPECT_EQ(restored->contexts, nullptr);
    EXPECT_EQ(restored->request.safety, kept->request.safety);
    GenerateRequest again = restored->request;
    again.max_tokens = whole.max_tokens;
    ExpectSame(Join(first, Say(again, std::make_shared<const SessionSnapshot>(*std::move(restored)))), want);
    EXPECT_GT(result_->timings.prompt_tokens, 40);
    // Another coordinator knows the tokens alone.
    GenerateRequest taken_up = whole;
    taken_up.generated = Tokens(first);
    ExpectSame(Join(first, Say(taken_up)), want);
  }
}

TEST_F(SwarmAroundTest, AMemoryThatWasMadeOtherwiseIsNotGoneOnWith) {
  GenerateRequest first = Request(true, true, 4, 30, 10);
  first.keep = true;
  const std::vector<Told> said = Say(first);
  const SnapshotPtr kept = result_->snapshot;
  for (const bool polytope : {false, true}) {
    for (const bool contexts : {false, true}) {
      GenerateRequest next = Request(polytope, contexts, 5, 6, 20);
      GenerateRequest all = next;
      all.prompt = first.prompt;
      for (TokenId token : Tokens(said)) all.prompt.push_back(token);
      all.prompt.insert(all.prompt.end(), next.prompt.begin(), next.prompt.end());
      ExpectSame(Say(next, kept), Plain(all));
      EXPECT_EQ(result_->timings.prompt_tokens == 1 + 6, polytope || !contexts);
    }
  }
}

TEST_F(SwarmAroundTest, WhatIsNotThereIsRefused) {
  GenerateRequest request = Request(true, false);
  const auto refused = [&](absl::StatusCode code, const std::string& why) {
    const auto handle = swarm_->Submit(request);
    EXPECT_EQ(handle.status().code(), code);
    EXPECT_THAT(std::string(handle.status().message()), HasSubstr(why));
  };
  request.safety.polytope = "medical";
  refused(absl::StatusCode::kInvalidArgument, "no polytope 'medical'; there are tight, wide");
  request.safety = {"tight", std::string(32, '0')};
  refused(absl::StatusCode::kFailedPrecondition, "goes on with the polytope 'tight' of hash 0000");
  request.safety.hash = polytopes_.Take({"tight", ""})->hash;
  EXPECT_EQ(Tokens(Say(request)), Tokens(Say(Request(true, false))));
  request.embed = true;
  refused(absl::StatusCode::kInvalidArgument, "together with a polytope");
  request = Request(false, true);
  request.embed = true;
  refused(absl::StatusCode::kInvalidArgument, "together with a memory of contexts");
}

TEST_F(SwarmAroundTest, AMemoryOfContextsIsPlannedForBeforeItIsMade) {
  const int64_t state = SessionState::BytesFor(tiny_.model.config());
  SwarmOptions options;
  options.coordinator.state_bytes = state + SessionContexts::MostBytes(20);
  Start(options);
  EXPECT_EQ(Say(Request(false, true, 1, 10, 10)).size(), 10u);
  const auto more = swarm_->Generate(Request(false, true, 1, 10, 30), nullptr);
  EXPECT_EQ(more.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Say(Request(false, false, 1, 10, 30)).size(), 30u);
}

TEST_F(SwarmAroundTest, WhatWasDoneIsCounted) {
  const std::vector<Told> told = Say(Request(true, true, 2));
  const SwarmStats stats = swarm_->Stats();
  EXPECT_EQ(stats.safety_tokens, 40);
  EXPECT_EQ(stats.safety_projected, Moved(told));
  EXPECT_EQ(stats.context_tokens, 40);
  EXPECT_EQ(stats.context_recalled, Recalled(told));
}

}  // namespace
}  // namespace omni
