#include "engine/around/perspectives.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/around/distribution.h"
#include "engine/decode/cpu_decoder.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::HasSubstr;
using testing::RandomModel;
using testing::RandomTokens;

TEST(ParsePerspectivesTest, TakesAKindAndSettings) {
  EXPECT_EQ(*ParsePerspectives("near"), PerspectiveSettings());
  const PerspectiveSettings s =
      *ParsePerspectives("far,use=average,every=3,examine=0,below=0.25,above=2.5,tau=0.3");
  EXPECT_EQ(s.kind, PerspectiveKind::kFar);
  EXPECT_EQ(s.use, PerspectiveUse::kAverage);
  EXPECT_EQ(s.every, 3);
  EXPECT_EQ(s.examine, 0);
  EXPECT_EQ(s.below, 0.25f);
  EXPECT_EQ(s.above, 2.5f);
  EXPECT_EQ(s.tau, 0.3f);
  EXPECT_EQ(*ParsePerspectives(PerspectiveText(s)), s);
}

TEST(ParsePerspectivesTest, SaysWhatIsWrong) {
  for (const std::string text :
       {"", "on", "near,", "near,,tau=1", "near,tau", "near,tau=", "near,tau=2", "near,tau=nan",
        "near,every=-1", "near,every=1.5", "near,use=vote", "near,below=1.1", "far,above=101", "near,x=1",
        "near,every=0,examine=0", "near tau=0.1", "NEAR"}) {
    const auto settings = ParsePerspectives(text);
    ASSERT_FALSE(settings.ok()) << text;
    EXPECT_THAT(settings.status().message(), HasSubstr("near or far")) << text;
  }
  EXPECT_THAT(ParsePerspectives("near,tau=2").status().message(), HasSubstr("'tau=2'"));
}

TEST(TriggerTest, PositionsAloneSayWhereItIsLooked) {
  PerspectiveSettings s;
  s.every = 8, s.examine = 3;
  std::vector<int64_t> due, examined;
  for (int64_t p = 1; p <= 16; ++p) {
    if (DueAt(s, p)) due.push_back(p);
    if (ExaminedAt(s, p)) examined.push_back(p);
  }
  EXPECT_THAT(due, ::testing::ElementsAre(8, 16));
  EXPECT_THAT(examined, ::testing::ElementsAre(3, 6, 9, 12, 15));
  s.every = s.examine = 0;
  EXPECT_FALSE(DueAt(s, 0) || ExaminedAt(s, 0));
}

TEST(TriggerTest, AFlatDistributionIsUncertainAndASharpOneIsNot) {
  const kernels::Ops& ops = kernels::ActiveOps();
  std::vector<float> logits(100);
  EXPECT_TRUE(Uncertain({}, ops, logits));
  logits[7] = 20;
  EXPECT_FALSE(Uncertain({}, ops, logits));
  logits[8] = 20;  // two of a half each
  EXPECT_TRUE(Uncertain({}, ops, logits));
  PerspectiveSettings low;
  low.below = 0.4f;
  EXPECT_FALSE(Uncertain(low, ops, logits));
  low.above = 0.5f;  // log 2 is more
  EXPECT_TRUE(Uncertain(low, ops, logits));
}

// What the router saw of some rows of a model.
class Recorder : public RoutePolicy {
 public:
  ExpertId Choose(const RouteChoice& choice) override {
    choices.push_back(choice);
    return choice.nearest;
  }
  std::vector<RouteChoice> choices;
};

struct Case {
  const char* name;
  std::function<ModelConfig()> config;
};

class PerspectivesTest : public ::testing::TestWithParam<Case> {
 protected:
  const ModelConfig& config() const { return model_.config(); }

  std::vector<RouteChoice> Choices() {
    Recorder recorder;
    WorkerPool pool(1);
    CpuDecoder decoder(model_.weights(), pool);
    SessionState state(config());
    std::vector<BatchRow> rows;
    const auto tokens = RandomTokens(20, config().vocab, 1);
    for (TokenId token : tokens) rows.push_back({&state, token, false, &recorder});
    EXPECT_TRUE(RunBatch(decoder, config(), model_, pool, rows).ok());
    return recorder.choices;
  }

  bool by_region() const { return config().route_from == RouteFrom::kAddress; }

  // Of all experts, the one of least distance to z that `may` allows.
  template <typename May>
  ExpertId Nearest(const RouteChoice& c, const TorusPoint& z, May&& may) {
    double best = 1e9;
    ExpertId nearest;
    for (int32_t e = 0; e < c.experts; ++e) {
      if (!may(ExpertId(e))) continue;
      double sum = c.bias == nullptr ? 0.0 : -static_cast<double>(c.bias[e]);
      for (size_t axis = 0; axis < 3; ++axis) {
        const double direct = std::fabs(static_cast<double>(z[axis]) -
                                        static_cast<double>(c.positions[3 * e + static_cast<int>(axis)]));
        sum += std::pow(std::min(direct, 1 - direct), 2);
      }
      if (sum < best) best = sum, nearest = ExpertId(e);
    }
    return nearest;
  }

  ExpertId WithMember(const RouteChoice& c, ExpertId chosen) {
    return by_region() ? config().ExpertOf(config().RegionOf(chosen), config().IndexInRegion(c.nearest))
                       : chosen;
  }

  // A sequence of which every `look`-th token is looked at in one batch with the session's own row: the
  // session's own logits, and those of the perspectives.
  struct Looked {
    std::vector<float> own, others;
    std::string state;
  };
  Looked Run(const std::vector<TokenId>& tokens, size_t look, PerspectiveKind kind, int threads = 1,
             const kernels::Ops& ops = kernels::ActiveOps(), int beside = 0) {
    WorkerPool pool(threads);
    CpuDecoder decoder(model_.weights(), pool, ops);
    SessionState state(config());
    std::vector<SessionState> strangers;
    for (int i = 0; i < beside; ++i) strangers.emplace_back(config());
    auto routes = PerspectiveRoutes(kind, 5);
    Looked looked;
    const auto vocab = static_cast<std::ptrdiff_t>(config().vocab);
    for (size_t t = 0; t < tokens.size(); ++t) {
      std::vector<SessionState> copies;
      std::vector<BatchRow> rows;
      for (SessionState& stranger : strangers)
        rows.push_back({&stranger, tokens[tokens.size() - 1 - t], false});
      rows.push_back({&state, tokens[t], true});
      if (look > 0 && t % look == look - 1) {
        for (int k = 1; k < kPerspectives; ++k) copies.push_back(state.Clone());
        for (size_t k = 0; k < copies.size(); ++k) rows.push_back({&copies[k], tokens[t], true, &routes[k]});
      }
      const auto logits = RunBatch(decoder, config(), model_, pool, rows);
      EXPECT_TRUE(logits.ok()) << logits.status();
      looked.own.insert(looked.own.end(), logits->begin(), logits->begin() + vocab);
      looked.others.insert(looked.others.end(), logits->begin() + vocab, logits->end());
      for (const SessionState& copy : copies) {
        EXPECT_EQ(copy.position(), state.position());
        differ_ += copy.Save() != state.Save();
      }
    }
    looked.state = state.Save();
    return looked;
  }

  static bool SameBytes(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  }

  RandomModel model_{GetParam().config(), 7};
  int differ_ = 0;  // copies that became another state than the session's own
};

INSTANTIATE_TEST_SUITE_P(Shapes, PerspectivesTest,
                         ::testing::Values(Case{"Tiny", testing::TinyConfig}, Case{"Odd", testing::OddConfig},
                                           Case{"Ahead", testing::AheadConfig},
                                           Case{"Address", testing::AddressConfig}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(PerspectivesTest, NearOnesMoveThePointByOneCellAlongEachAxis) {
  for (const RouteChoice& c : Choices()) {
    for (int which = 1; which < kPerspectives; ++which) {
      const auto axis = static_cast<size_t>(which - 1);
      const auto cell = static_cast<float>(by_region() ? config().region[axis] : 1) /
                        static_cast<float>(config().lattice[axis]);
      TorusPoint z = c.point;
      z[axis] = Frac(z[axis] + cell);
      const ExpertId want = WithMember(c, Nearest(c, z, [](ExpertId) { return true; }));
      EXPECT_EQ(PerspectiveRoute(PerspectiveKind::kNear, which, 0).Choose(c), want);
    }
  }
}

TEST_P(PerspectivesTest, FarOnesAreTheSecondNearestTheAntipodeAndAChanceExpert) {
  std::set<ExpertId> drawn;
  for (const RouteChoice& c : Choices()) {
    const ExpertId second = Nearest(c, c.point, [&](ExpertId e) {
      return by_region() ? config().RegionOf(e) != config().RegionOf(c.nearest) : e != c.nearest;
    });
    EXPECT_EQ(PerspectiveRoute(PerspectiveKind::kFar, 1, 0).Choose(c), WithMember(c, second));
    TorusPoint z;
    for (size_t axis = 0; axis < 3; ++axis)
      z[axis] = Frac(c.positions[3 * c.nearest.value + static_cast<int>(axis)] + 0.5f);
    EXPECT_EQ(PerspectiveRoute(PerspectiveKind::kFar, 2, 0).Choose(c),
              WithMember(c, Nearest(c, z, [](ExpertId) { return true; })));
    const ExpertId chance = PerspectiveRoute(PerspectiveKind::kFar, 3, 9).Choose(c);
    EXPECT_EQ(PerspectiveRoute(PerspectiveKind::kFar, 3, 9).Choose(c), chance);
    if (by_region()) {
      EXPECT_EQ(config().IndexInRegion(chance), config().IndexInRegion(c.nearest));
    }
    drawn.insert(chance);
  }
  EXPECT_GT(std::ssize(drawn), std::min<int64_t>(config().num_experts(), 20) / 2);
}

TEST_P(PerspectivesTest, TheSessionsOwnRowIsWhatItIsWithoutThem) {
  const auto tokens = RandomTokens(3 * config().window + 5, config().vocab, 2);
  const Looked plain = Run(tokens, 0, PerspectiveKind::kNear);
  for (PerspectiveKind kind : {PerspectiveKind::kNear, PerspectiveKind::kFar}) {
    const Looked looked = Run(tokens, 2, kind);
    EXPECT_TRUE(SameBytes(plain.own, looked.own));
    EXPECT_EQ(plain.state, looked.state);
  }
}

TEST_P(PerspectivesTest, EachHasAStateOfItsOwn) {
  const auto tokens = RandomTokens(40, config().vocab, 3);
  const Looked looked = Run(tokens, 4, PerspectiveKind::kFar);
  EXPECT_GT(differ_, 10);  // of 30 copies; a chance expert may be the router's
  // And their rows see another model than the session's own.
  int same = 0;
  const auto vocab = static_cast<size_t>(config().vocab);
  for (size_t look = 0; look < 10; ++look) {
    const float* own = looked.own.data() + (4 * look + 3) * vocab;
    for (size_t k = 0; k < 3; ++k)
      same += std::memcmp(own, looked.others.data() + (3 * look + k) * vocab, vocab * sizeof(float)) == 0;
  }
  EXPECT_LT(same, 10);
}

TEST_P(PerspectivesTest, ThreadsInstructionSetsAndCompanyChangeNothing) {
  const auto tokens = RandomTokens(24, config().vocab, 4);
  const Looked scalar = Run(tokens, 3, PerspectiveKind::kFar, 1, *kernels::OpsFor(kernels::Isa::kScalar));
  for (kernels::Isa isa : kernels::kAllIsas) {
    const kernels::Ops* ops = kernels::OpsFor(isa);
    if (ops == nullptr) continue;
    const Looked other = Run(tokens, 3, PerspectiveKind::kFar, 3, *ops, 9);
    EXPECT_TRUE(SameBytes(scalar.own, other.own)) << kernels::IsaName(isa);
    EXPECT_TRUE(SameBytes(scalar.others, other.others)) << kernels::IsaName(isa);
  }
}

class JudgeTest : public ::testing::Test {
 protected:
  // Four distributions of ten tokens, each sure of the one that is named.
  Judgement JudgeSure(std::array<size_t, kPerspectives> likeliest, const std::string& settings,
                      float sure = 9) {
    std::vector<std::vector<float>> logits;
    for (size_t token : likeliest) {
      logits.emplace_back(10);
      logits.back()[token] = sure;
    }
    const std::vector<std::span<const float>> spans(logits.begin(), logits.end());
    SamplerSettings greedy;
    greedy.temperature = 0;
    return Judge(*ParsePerspectives(settings), kernels::ActiveOps(), spans, {}, greedy, 0.15f);
  }
};

TEST_F(JudgeTest, WhereTheyAgreeTheSessionsOwnTokenStays) {
  const Judgement j = JudgeSure({3, 3, 3, 3}, "near");
  EXPECT_EQ(j.verdict.disagreement, 0.0f);
  EXPECT_FALSE(j.verdict.disagree || j.verdict.uncertain || j.verdict.changed);
  EXPECT_EQ(j.verdict.token, TokenId(3));
  EXPECT_EQ(j.verdict.votes, 4);
  EXPECT_TRUE(j.average.empty());
}

TEST_F(JudgeTest, AMajorityAgainstTheSessionsOwnTokenWinsWhereTheyDisagree) {
  const Judgement j = JudgeSure({3, 5, 5, 2}, "near");
  EXPECT_TRUE(j.verdict.disagree && j.verdict.changed);
  EXPECT_EQ(j.verdict.token, TokenId(5));
  EXPECT_EQ(j.verdict.votes, 2);
  EXPECT_FALSE(j.verdict.uncertain);
}

TEST_F(JudgeTest, AMajorityWithinTauChangesNothing) {
  const Judgement j = JudgeSure({3, 5, 5, 5}, "near", 0.1f);
  EXPECT_FALSE(j.verdict.disagree || j.verdict.changed);
  EXPECT_EQ(j.verdict.token, TokenId(3));
  EXPECT_EQ(j.verdict.votes, 1);
}

TEST_F(JudgeTest, OnAnyThreadsItIsTheSame) {
  testing::Random random(3);
  std::vector<std::vector<float>> logits(4, std::vector<float>(1000));
  for (std::vector<float>& one : logits) {
    for (float& logit : one) logit = 4 * random.Normal();
  }
  const std::vector<std::span<const float>> spans(logits.begin(), logits.end());
  WorkerPool three(3);
  for (const char* text : {"near", "near,use=average"}) {
    const auto judge = [&](WorkerPool* pool) {
      return Judge(*ParsePerspectives(text), kernels::ActiveOps(), spans, {}, {}, 0.15f, pool);
    };
    const Judgement alone = judge(nullptr), together = judge(&three);
    EXPECT_EQ(alone.verdict.disagreement, together.verdict.disagreement);
    EXPECT_EQ(alone.verdict.token, together.verdict.token);
    EXPECT_EQ(alone.verdict.votes, together.verdict.votes);
    EXPECT_EQ(alone.verdict.probability, together.verdict.probability);
    EXPECT_EQ(alone.average, together.average);
  }
}

TEST_F(JudgeTest, OfTwoPairsTheSessionsOwnWins) {
  EXPECT_EQ(JudgeSure({3, 5, 5, 3}, "near").verdict.token, TokenId(3));
  EXPECT_EQ(JudgeSure({3, 5, 3, 5}, "near").verdict.token, TokenId(3));
}

TEST_F(JudgeTest, WithoutAnyTwoItIsUncertainAndTheOwnTokenStays) {
  const Judgement j = JudgeSure({3, 5, 6, 7}, "near");
  EXPECT_TRUE(j.verdict.uncertain);
  EXPECT_EQ(j.verdict.token, TokenId(3));
}

TEST_F(JudgeTest, ConfidenceNeverChangesAToken) {
  const Judgement j = JudgeSure({3, 5, 5, 5}, "near,use=confidence");
  EXPECT_TRUE(j.verdict.disagree);
  EXPECT_EQ(j.verdict.token, TokenId(3));
  EXPECT_FALSE(j.verdict.changed);
}

TEST_F(JudgeTest, TheAverageIsOneOfProbabilities) {
  const Judgement j = JudgeSure({3, 5, 5, 2}, "near,use=average");
  ASSERT_EQ(j.average.size(), 10u);
  const double sure = std::exp(9.0) / (std::exp(9.0) + 9), other = 1 / (std::exp(9.0) + 9);
  EXPECT_NEAR(std::exp(static_cast<double>(j.average[5])), (2 * sure + 2 * other) / 4, 1e-5);
  EXPECT_NEAR(std::exp(static_cast<double>(j.average[3])), (sure + 3 * other) / 4, 1e-5);
  EXPECT_EQ(j.verdict.token, TokenId(5));
  EXPECT_TRUE(j.verdict.changed);
}

}  // namespace
}  // namespace omni
