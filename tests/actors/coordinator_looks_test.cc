// Sessions with perspectives, beside others.
#include <malloc.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "actors/looks.h"
#include "tests/actors/coordinator_fixture.h"

namespace omni {
namespace {

using omni::testing::CoordinatorTest;
using omni::testing::MakeRequest;
using omni::testing::PlainLoop;
using omni::testing::TinyModel;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What a token tells of itself.
struct Told {
  TokenId token;
  TokenConfidence confidence;
};

bool SameFloat(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

bool Same(const Told& a, const Told& b) {
  if (a.token != b.token || !SameFloat(a.confidence.confidence, b.confidence.confidence)) return false;
  if (a.confidence.looked.has_value() != b.confidence.looked.has_value()) return false;
  if (!a.confidence.looked.has_value()) return true;
  const PerspectiveVerdict &v = *a.confidence.looked, &w = *b.confidence.looked;
  return SameFloat(v.disagreement, w.disagreement) && v.disagree == w.disagree && v.votes == w.votes &&
         v.uncertain == w.uncertain && v.changed == w.changed && v.token == w.token &&
         SameFloat(v.probability, w.probability);
}

::testing::AssertionResult Same(const std::vector<Told>& a, const std::vector<Told>& b) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << a.size() << " and " << b.size() << " tokens";
  for (size_t i = 0; i < a.size(); ++i) {
    if (Same(a[i], b[i])) continue;
    const auto text = [](const Told& t) {
      return t.confidence.looked.has_value() ? ::testing::PrintToString(t.confidence.looked->disagreement)
                                             : "none";
    };
    return ::testing::AssertionFailure()
           << "token " << i << ": " << a[i].token.value << " and " << b[i].token.value << ", confidence "
           << a[i].confidence.confidence << " and " << b[i].confidence.confidence << ", disagreement "
           << text(a[i]) << " and " << text(b[i]);
  }
  return ::testing::AssertionSuccess();
}

GenerateRequest WithPerspectives(const TinyModel& tiny, const std::string& settings, uint64_t seed = 1,
                                 int64_t prompt = 9, int64_t tokens = 24) {
  GenerateRequest request = MakeRequest(tiny, prompt, tokens, seed);
  request.perspectives = *ParsePerspectives(settings);
  return request;
}

// One row a pass, one session, no actor: the session's own, and then its perspectives one by one.
std::vector<Told> Plain(TinyModel& tiny, const GenerateRequest& request) {
  const PerspectiveSettings& settings = *request.perspectives;
  WorkerPool pool(1);
  CpuDecoder decoder(tiny.model.weights(), pool);
  SessionState state(tiny.model.config());
  auto routes = PerspectiveRoutes(settings.kind, request.sampler.seed);
  const auto run = [&](SessionState& with, TokenId token, RoutePolicy* policy) {
    const BatchRow row{&with, token, true, policy};
    const auto logits = RunBatch(decoder, tiny.model.config(), tiny.model, pool, {&row, 1});
    EXPECT_TRUE(logits.ok()) << logits.status();
    return std::vector<float>(logits->begin(), logits->end());
  };
  std::vector<TokenId> tokens = request.prompt;
  std::vector<Told> all;
  for (size_t i = 0; std::ssize(all) < request.max_tokens; ++i) {
    const SessionState before = state.Clone();
    std::vector<std::vector<float>> logits = {run(state, tokens[i], nullptr)};
    if (i + 1 < tokens.size()) continue;
    const auto position = static_cast<int64_t>(tokens.size());
    Told told;
    told.confidence.confidence = OwnConfidence(nullptr, decoder.ops(), logits[0]);
    if (DueAt(settings, position) ||
        (ExaminedAt(settings, position) && Uncertain(settings, decoder.ops(), logits[0]))) {
      for (PerspectiveRoute& route : routes) {
        SessionState copy = before.Clone();
        logits.push_back(run(copy, tokens[i], &route));
      }
      const std::vector<std::span<const float>> spans(logits.begin(), logits.end());
      const Judgement judgement =
          Judge(settings, decoder.ops(), spans, tokens, request.sampler, TauOf(settings, nullptr));
      told.confidence.looked = judgement.verdict;
      told.confidence.confidence =
          PerspectiveConfidence(nullptr, settings.kind, decoder.ops(), spans, judgement.verdict.disagreement,
                                TauOf(settings, nullptr));
      told.token = judgement.verdict.token;
    } else {
      told.token = Sample(logits[0], tokens, tokens.size(), request.sampler).token;
    }
    tokens.push_back(told.token);
    all.push_back(told);
  }
  return all;
}

std::vector<Told> TakeTold(SessionChannel& channel) {
  std::vector<Told> all;
  std::stop_source stop;
  stop.request_stop();
  const SessionChannel::Taken taken = channel.Take(stop.get_token());
  EXPECT_TRUE(taken.result.has_value() && taken.result->ok());
  for (const GenerateEvent& event : taken.events) {
    if (!event.is_token) continue;
    EXPECT_TRUE(event.confidence.has_value());
    if (event.confidence.has_value()) all.push_back({event.token, *event.confidence});
  }
  return all;
}

// How many tokens were looked at.
int Looked(const std::vector<Told>& all) {
  return static_cast<int>(
      std::count_if(all.begin(), all.end(), [](const Told& t) { return t.confidence.looked.has_value(); }));
}

struct World {
  const char* name;
  ModelConfig (*config)();
  bool asides;  // whether the decoder takes rows aside; else each has a copy of the state
};

class LooksTest : public CoordinatorTest, public ::testing::WithParamInterface<World> {
 protected:
  LooksTest() : CoordinatorTest(Options(), GetParam().config()) { decoder_.asides = GetParam().asides; }
  static CoordinatorOptions Options() {
    CoordinatorOptions options = SmallOptions();
    options.max_rows = 12;
    options.max_active = 4;
    options.max_queued = 8;
    return options;
  }
};

INSTANTIATE_TEST_SUITE_P(Models, LooksTest,
                         ::testing::Values(World{"Token", testing::TinyConfig, true},
                                           World{"Address", testing::AddressConfig, true},
                                           World{"TokenCopied", testing::TinyConfig, false},
                                           World{"AddressCopied", testing::AddressConfig, false}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(LooksTest, BesideOthersASessionSaysWhatItSaysAlone) {
  // Due ones, examined ones, both, and every token; of each a use.
  const std::vector<std::string> settings = {"near,every=3,examine=0", "far,every=0,examine=2,use=average",
                                             "far,every=4,examine=3,below=0.02,above=5,tau=0.01,use=majority",
                                             "near,every=1,use=confidence"};
  std::vector<GenerateRequest> requests;
  for (size_t i = 0; i < settings.size(); ++i)
    requests.push_back(WithPerspectives(tiny_, settings[i], i, 7 + 5 * static_cast<int64_t>(i)));
  std::vector<std::shared_ptr<SessionChannel>> channels;
  for (const GenerateRequest& request : requests) channels.push_back(Submit(request));
  RunAll();
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::vector<Told> together = TakeTold(*channels[i]);
    EXPECT_TRUE(Same(together, Plain(tiny_, requests[i]))) << settings[i];
    EXPECT_GT(Looked(together), 0) << settings[i];
  }
}

TEST_P(LooksTest, WithoutThemASessionIsWhatItWas) {
  const GenerateRequest plain = MakeRequest(tiny_, 11, 20, 5);
  const auto beside = Submit(WithPerspectives(tiny_, "far,every=2,examine=1", 6));
  const auto channel = Submit(plain);
  RunAll();
  const auto result = End(*channel);
  ASSERT_TRUE(result.has_value() && result->ok());
  EXPECT_EQ((*result)->tokens, PlainLoop(tiny_, plain));
  EXPECT_EQ(TakeTold(*beside).size(), 24u);
}

TEST_P(LooksTest, ConfidenceAloneChangesNoToken) {
  GenerateRequest request = WithPerspectives(tiny_, "far,every=1,tau=0,use=confidence", 7);
  const auto channel = Submit(request);
  RunAll();
  std::vector<TokenId> tokens;
  for (const Told& told : TakeTold(*channel)) {
    tokens.push_back(told.token);
    ASSERT_TRUE(told.confidence.looked.has_value());
    EXPECT_TRUE(told.confidence.looked->disagree);
    EXPECT_FALSE(told.confidence.looked->changed);
  }
  request.perspectives.reset();
  EXPECT_EQ(tokens, PlainLoop(tiny_, request));
}

TEST_P(LooksTest, ItIsTheSameWhetherAskedForBeforeOrAfterTheLogits) {
  const auto due = Submit(WithPerspectives(tiny_, "far,every=3,examine=0,use=average", 8));
  const auto asked = Submit(WithPerspectives(tiny_, "far,every=0,examine=3,above=0,use=average", 8));
  RunAll();
  const std::vector<Told> a = TakeTold(*due), b = TakeTold(*asked);
  EXPECT_TRUE(Same(a, b));
  EXPECT_EQ(Looked(a), 8);
}

TEST_P(LooksTest, ACertainTokenIsNotLookedAt) {
  const auto channel = Submit(WithPerspectives(tiny_, "near,every=0,examine=1,below=0,above=100", 9));
  RunAll();
  EXPECT_EQ(Looked(TakeTold(*channel)), 0);
}

TEST_P(LooksTest, WhatIsKnownAlreadyLeadsToTheSameRest) {
  GenerateRequest request = WithPerspectives(tiny_, "far,every=5,examine=2,tau=0.01", 10);
  const std::vector<Told> whole = Plain(tiny_, request);
  for (size_t i = 0; i < 7; ++i) request.generated.push_back(whole[i].token);
  const auto channel = Submit(request);
  RunAll();
  EXPECT_TRUE(Same(TakeTold(*channel), std::vector<Told>(whole.begin() + 7, whole.end())));
}

TEST_P(LooksTest, ARegionThatIsLostIsAskedAgainInEitherPass) {
  const GenerateRequest request = WithPerspectives(tiny_, "far,every=4,examine=2,above=0", 11);
  const auto channel = Submit(request);
  int answers = 0;
  while (world_.steps > 0) {
    --world_.steps;
    state_.Step();
    while (!world_.requests.empty()) {
      if (++answers % 5 == 0 && world_.requests.front()->attempt == 1) {
        const RegionId region = world_.requests.front()->region;
        world_.requests.pop_front();
        state_.OnLost(region, "it was killed");
      } else {
        Serve();
      }
    }
  }
  EXPECT_TRUE(Same(TakeTold(*channel), Plain(tiny_, request)));
}

TEST_P(LooksTest, AnExpertThatFailsEndsTheSessionThatAskedForItAndNoOther) {
  const auto asks = Submit(WithPerspectives(tiny_, "far,every=0,examine=1,above=0", 12));
  const GenerateRequest plain = MakeRequest(tiny_, 9, 24, 13);
  const auto other = Submit(plain);
  bool failed = false;
  for (int step = 0; world_.steps > 0; ++step) {
    --world_.steps;
    state_.Step();
    while (!world_.requests.empty()) {
      int64_t rows = 0;  // of the layer
      for (const RegionRequestPtr& request : world_.requests) rows += request->rows;
      const RegionRequestPtr request = world_.requests.front();
      world_.requests.pop_front();
      RegionReply reply = *region_.Start(request, nullptr);
      // Both decode, so that three rows are those of the perspectives in their own pass.
      if (!failed && step > 10 && rows == 3) {
        reply.statuses[0] = absl::DataLossError("a tile is bad");
        failed = true;
      }
      state_.OnReply(reply);
    }
  }
  ASSERT_TRUE(failed);
  const auto ended = End(*asks), whole = End(*other);
  ASSERT_TRUE(ended.has_value() && whole.has_value());
  EXPECT_THAT(ended->status().message(), HasSubstr("a tile is bad"));
  ASSERT_TRUE(whole->ok()) << whole->status();
  EXPECT_EQ((*whole)->tokens, PlainLoop(tiny_, plain));
}

// Shows which rows it gets.
class CountingStage : public TokenStage {
 public:
  bool Run(std::span<TokenRow> rows, const Done&) override {
    seen += rows.size();
    for (const TokenRow& row : rows) verdicts += row.verdict != nullptr;
    return true;
  }
  size_t seen = 0, verdicts = 0;
};

class LooksStagesTest : public CoordinatorTest {
 protected:
  LooksStagesTest() : CoordinatorTest(Options()) {}
  static CoordinatorOptions Options() {
    CoordinatorOptions options = SmallOptions();
    options.project = {&project_};
    options.decide = {&decide_};
    return options;
  }
  void SetUp() override { project_ = decide_ = {}; }
  static inline CountingStage project_, decide_;
};

TEST_F(LooksStagesTest, AllRowsAreProjectedAndTheSessionsOwnAreDecided) {
  // Of the tokens at positions 9 to 32, six are due, and six others examined.
  Submit(WithPerspectives(tiny_, "near,every=4,examine=2,above=0", 3));
  RunAll();
  EXPECT_EQ(decide_.seen, 24u);
  EXPECT_EQ(decide_.verdicts, 12u);
  EXPECT_EQ(project_.seen, 24u + 3 * 12u);
}

// --- Limits and memory

class LooksMemoryTest : public CoordinatorTest {
 protected:
  LooksMemoryTest() : CoordinatorTest(Options()) {}
  static CoordinatorOptions Options() {
    CoordinatorOptions options = SmallOptions();
    options.max_queued = 8;
    options.state_bytes = 5 * SessionState::BytesFor(testing::TinyConfig());
    return options;
  }
};

TEST_F(LooksMemoryTest, ASessionWithPerspectivesCountsAsTwoStatesOrWithCopiesAsFour) {
  for (const bool asides : {true, false}) {
    decoder_.asides = asides;
    std::vector<std::shared_ptr<SessionChannel>> channels;
    for (uint64_t seed = 0; seed < 3; ++seed)
      channels.push_back(Submit(WithPerspectives(tiny_, "near", seed)));
    StepOnce();
    EXPECT_EQ(counters_.active.Get(), asides ? 2 : 1);
    EXPECT_EQ(counters_.queued.Get(), asides ? 1 : 2);
    RunAll();
    for (const auto& channel : channels) EXPECT_EQ(TakeTold(*channel).size(), 24u);
  }
  for (uint64_t i = 0; i < 3; ++i) Submit(MakeRequest(tiny_, 4, 4, i));
  StepOnce();
  EXPECT_EQ(counters_.active.Get(), 3);
}

class LooksStatesTest : public ::testing::Test {
 protected:
  static int64_t InUse() {
    const struct mallinfo2 info = mallinfo2();
    return static_cast<int64_t>(info.uordblks + info.hblkhd);
  }
  TokenRow Row() const {
    TokenRow own;
    own.logits = logits_;
    own.sampler = &sampler_;
    return own;
  }
  absl::Status Add(const char* settings, int64_t position, bool asides) {
    return looks_.Add(0, *ParsePerspectives(settings), 1, position, state_, TokenId(1), asides);
  }

  const ModelConfig config_ = testing::TinyConfig();
  SessionState state_{config_};
  const std::vector<float> logits_ = std::vector<float>(static_cast<size_t>(config_.vocab));
  const SamplerSettings sampler_;
  Looks looks_{kernels::ActiveOps(), nullptr};
};

TEST_F(LooksStatesTest, CopiesAreFreedWhenTheyAreReleased) {
  const int64_t copies = 3 * state_.bytes(), before = InUse();
  ASSERT_TRUE(Add("near", 8, false).ok());
  EXPECT_GE(InUse() - before, copies);
  TokenRow own = Row();
  looks_.Conclude(0, std::vector<TokenRow>(3, Row()), own);
  looks_.Clear();
  // The next look takes the same memory.
  const int64_t kept = InUse();
  ASSERT_TRUE(Add("near", 16, false).ok());
  EXPECT_LT(InUse() - kept, copies / 8);
  looks_.Clear();
  looks_.Release();
  EXPECT_LT(InUse() - before, copies / 8);
  EXPECT_TRUE(looks_.empty());
}

TEST_F(LooksStatesTest, RowsAsideThatAreDueTakeNoCopyAndExaminedOnesTheRecurrentStateAlone) {
  SessionState recurrent = state_.Recurrent();
  const int64_t bytes = recurrent.bytes(), before = InUse();
  ASSERT_LT(bytes, state_.bytes());
  ASSERT_TRUE(Add("near", 8, true).ok());
  const std::vector<Looks::Rows> due = looks_.Due();
  ASSERT_EQ(due.size(), 1u);
  for (const BatchRow& row : due[0].rows) {
    EXPECT_TRUE(row.aside);
    EXPECT_EQ(row.state, &state_);
  }
  EXPECT_LT(InUse() - before, bytes / 2);
  looks_.Clear();
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(Add("near,every=0,examine=2,above=0", 10, true).ok());
    EXPECT_LT(InUse() - before, bytes + bytes / 2);
    TokenRow own = Row();
    const std::vector<Looks::Rows> asked = looks_.Asked([&](size_t) -> TokenRow& { return own; });
    ASSERT_EQ(asked.size(), 1u);
    for (const BatchRow& row : asked[0].rows) {
      EXPECT_TRUE(row.aside);
      EXPECT_EQ(row.state, asked[0].rows[0].state);
      EXPECT_NE(row.state, &state_);
    }
    EXPECT_LT(InUse() - before, bytes + bytes / 2);
    looks_.Clear();
  }
  looks_.Release();
  EXPECT_LT(InUse() - before, bytes / 2);
}

TEST_F(LooksStatesTest, ATokenThatIsNeitherDueNorExaminedCopiesNothing) {
  const int64_t recurrent = state_.Recurrent().bytes();
  ASSERT_TRUE(Add("near,every=8,examine=4", 9, true).ok());  // what is kept for looks without states
  looks_.Clear();
  for (const bool asides : {true, false}) {
    const int64_t before = InUse();
    ASSERT_TRUE(Add("near,every=8,examine=4", 9, asides).ok());
    EXPECT_LT(InUse() - before, recurrent / 2);
    EXPECT_TRUE(looks_.Due().empty());
    EXPECT_TRUE(looks_.Asked([](size_t) -> TokenRow& { std::abort(); }).empty());
    looks_.Clear();
  }
}

}  // namespace
}  // namespace omni
