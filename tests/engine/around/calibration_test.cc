#include "engine/around/calibration.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/around/calibration_fit.h"
#include "engine/around/calibration_metrics.h"
#include "engine/around/distribution.h"
#include "engine/decode/eval.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kHash[] = "0123456789abcdef0123456789abcdef";

TEST(MonotoneMapTest, IsStraightBetweenItsPointsAndLevelBeyond) {
  const MonotoneMap map{{0.2f, 0.4f, 0.8f}, {0.1f, 0.3f, 0.9f}};
  EXPECT_FLOAT_EQ(map.At(0.0f), 0.1f);
  EXPECT_FLOAT_EQ(map.At(0.3f), 0.2f);
  EXPECT_FLOAT_EQ(map.At(0.4f), 0.3f);
  EXPECT_FLOAT_EQ(map.At(0.6f), 0.6f);
  EXPECT_FLOAT_EQ(map.At(1.0f), 0.9f);
  EXPECT_EQ(MonotoneMap().At(0.7f), 0.7f);
}

TEST(FitIsotonicTest, PoolsWhatFalls) {
  const std::vector<float> scores = {0.4f, 0.1f, 0.3f, 0.2f};
  const std::vector<uint8_t> right = {1, 0, 0, 1};  // ascending: 0 1 0 1
  const MonotoneMap map = FitIsotonic(scores, right);
  EXPECT_THAT(map.x, ElementsAre(0.1f, ::testing::FloatEq(0.25f), 0.4f));
  EXPECT_THAT(map.y, ElementsAre(0.0f, 0.5f, 1.0f));
}

TEST(FitIsotonicTest, FindsTheFunctionByWhichItWasRight) {
  testing::Random random(1);
  std::vector<float> scores;
  std::vector<uint8_t> right;
  for (int i = 0; i < 100000; ++i) {
    scores.push_back(random.Uniform(0, 1));
    right.push_back(random.Uniform(0, 1) < scores.back() * scores.back());
  }
  const MonotoneMap map = FitIsotonic(scores, right);
  for (float x = 0.05f; x < 1; x += 0.1f) EXPECT_NEAR(map.At(x), x * x, 0.05) << x;
  EXPECT_LE(map.x.size(), 100u);
}

Calibration Example() {
  Calibration c;
  c.model_hash = kHash;
  c.tokens = 1000;
  c.temperature = 1.0625f;
  c.map = {{0.1f, 0.7f}, {0.05f, 0.8f}};
  c.far = PerspectiveCalibration{0.9f, 0.125f, 0.55f, {0.5f, 1.25f, -2, 0.75f}, {{0.3f}, {0.25f}}};
  return c;
}

TEST(CalibrationFileTest, IsReadAsItWasWritten) {
  const Calibration c = Example();
  const auto read = CalibrationFromJson(ToJson(c), kHash);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, c);
  EXPECT_TRUE(read->Of(PerspectiveKind::kFar).has_value());
  EXPECT_FALSE(read->Of(PerspectiveKind::kNear).has_value());
}

TEST(CalibrationFileTest, RefusesWhatIsDamagedOrAnothersAndSaysWhatToDo) {
  const std::string good = ToJson(Example());
  const auto with = [&](const std::string& from, const std::string& to) {
    const size_t at = good.find(from);
    EXPECT_NE(at, good.npos) << from;
    std::string text = good;
    return text.replace(at, from.size(), to);
  };
  const std::vector<std::string> bad = {"",
                                        "{}",
                                        "[]",
                                        good.substr(0, good.size() / 2),
                                        with("omni-calibration", "omni-calibratiom"),
                                        with("\"version\": 1", "\"version\": 2"),
                                        with("1.0625", "0"),
                                        with("1.0625", "\"1\""),
                                        with("1.0625", "1e400"),
                                        with("\"tokens\": 1000", "\"tokens\": -1"),
                                        with("0.55", "1.5"),
                                        with("-2.0", "1e300"),
                                        with("\"map\"", "\"mop\"")};
  for (size_t i = 0; i < bad.size(); ++i) {
    const auto read = CalibrationFromJson(bad[i], kHash);
    ASSERT_FALSE(read.ok()) << bad[i];
    EXPECT_THAT(read.status().message(), HasSubstr("--fit")) << bad[i];
  }
  EXPECT_THAT(CalibrationFromJson(good, std::string(32, 'f')).status().message(), HasSubstr("another model"));
}

TEST(TauTest, IsTheSettingsOrTheCalibrationsOrTheDefault) {
  const Calibration c = Example();
  EXPECT_EQ(TauOf(*ParsePerspectives("far,tau=0.5"), &c), 0.5f);
  EXPECT_EQ(TauOf(*ParsePerspectives("far"), &c), 0.125f);
  EXPECT_EQ(TauOf(*ParsePerspectives("near"), &c), 0.15f);
  EXPECT_EQ(TauOf(*ParsePerspectives("far"), nullptr), 0.15f);
}

TEST(CalibrationFileTest, RefusesMapsThatDoNotRise) {
  for (const MonotoneMap& map :
       {MonotoneMap{{0.1f, 0.1f}, {0.1f, 0.2f}}, MonotoneMap{{0.1f, 0.2f}, {0.3f, 0.2f}},
        MonotoneMap{{0.1f}, {1.5f}}, MonotoneMap{{0.1f}, {-0.5f}}, MonotoneMap{{0.1f, 0.2f}, {0.1f}}}) {
    Calibration c = Example();
    c.map = map;
    EXPECT_FALSE(CalibrationFromJson(ToJson(c), kHash).ok());
  }
}

TEST(ConfidenceTest, WithoutACalibrationItIsTheProbabilityOrTheRule) {
  const kernels::Ops& ops = kernels::ActiveOps();
  std::vector<float> logits(4);
  logits[2] = std::log(7.0f);  // 0.7 and three of 0.1
  EXPECT_NEAR(OwnConfidence(nullptr, ops, logits), 0.7f, 1e-6);
  PerspectiveSettings settings;
  const std::vector<std::span<const float>> four(4, logits);
  EXPECT_FLOAT_EQ(PerspectiveConfidence(nullptr, settings.kind, ops, four, 0.03f, 0.15f), 0.8f * 0.7f);
  EXPECT_EQ(PerspectiveConfidence(nullptr, settings.kind, ops, four, 0.3f, 0.15f), 0.0f);
  WorkerPool three(3);
  EXPECT_EQ(PerspectiveConfidence(nullptr, settings.kind, ops, four, 0.03f, 0.15f, &three),
            PerspectiveConfidence(nullptr, settings.kind, ops, four, 0.03f, 0.15f));
  const Calibration c = Example();  // has nothing of near ones
  EXPECT_FLOAT_EQ(PerspectiveConfidence(&c, settings.kind, ops, four, 0.03f, 0.15f), 0.8f * 0.7f);
  settings.kind = PerspectiveKind::kFar;
  EXPECT_FLOAT_EQ(PerspectiveConfidence(&c, settings.kind, ops, four, 0.03f, 0.15f), 0.25f);
}

// --- Metrics

TokenScore Score(float confidence, bool right) {
  TokenScore score;
  score.confidence = score.ranking = confidence;
  score.right = right;
  return score;
}

TEST(CalibrationMetricsTest, EceIsTheMeanGapOfEquallyManyTokens) {
  CalibrationMetrics metrics;
  for (int i = 0; i < 30; ++i) metrics.Add(Score(i < 15 ? 0.2f : 0.8f, i % 2 == 0));
  const CalibrationReport report = metrics.Report();
  ASSERT_EQ(report.reliability.size(), 15u);
  double want = 0;
  for (const ReliabilityBin& bin : report.reliability) {
    EXPECT_EQ(bin.tokens, 2);
    want += std::fabs(bin.accuracy - bin.confidence) * 2 / 30;
  }
  EXPECT_NEAR(report.ece, want, 1e-12);
  EXPECT_NEAR(report.accuracy, 0.5, 1e-12);
  EXPECT_NEAR(report.ece, 0.3 * 14 / 15, 1e-6);  // 0.5 against 0.2 and 0.8; the bin in the middle has both
}

TEST(CalibrationMetricsTest, AurcIsTheMeanRiskOverAllCoverages) {
  CalibrationMetrics metrics;
  for (const auto& [confidence, right] :
       std::vector<std::pair<float, bool>>{{0.9f, true}, {0.5f, false}, {0.7f, false}, {0.1f, true}})
    metrics.Add(Score(confidence, right));
  EXPECT_NEAR(metrics.Report().aurc, (0 + 1.0 / 2 + 2.0 / 3 + 2.0 / 4) / 4, 1e-12);
  CalibrationMetrics equal;  // the order of equals must not matter
  for (bool right : {true, false, true, false}) equal.Add(Score(0.5f, right));
  EXPECT_NEAR(equal.Report().aurc, 0.5, 1e-12);
}

TEST(CalibrationMetricsTest, DistributionsAreScoredOverTheWholeVocabulary) {
  const std::vector<float> p = {0.5f, 0.3f, 0.2f};
  const TokenScore score = ScoreDistribution(p, TokenId(1));
  EXPECT_FALSE(score.right);
  EXPECT_NEAR(score.nats, -std::log(0.3), 1e-6);
  EXPECT_NEAR(score.brier, 0.25 + 0.49 + 0.04, 1e-6);
  CalibrationMetrics metrics;
  metrics.Add(score);
  // 0.5, 0.3 and 0.2 lie in three bins of a fifteenth.
  EXPECT_NEAR(metrics.Report().full_ece, 0.5 + 0.7 + 0.2, 1e-6);
  EXPECT_TRUE(ScoreDistribution(p, TokenId(0)).right);
  EXPECT_NEAR(ScoreDistribution(std::vector<float>{1, 0}, TokenId(0)).gap[14], 0.0f, 0);
}

TEST(CalibrationMetricsTest, ATrueModelHasNoErrorButThatOfTheSample) {
  testing::Random random(3);
  CalibrationMetrics metrics;
  for (int i = 0; i < 50000; ++i) {
    std::vector<float> logits(20), p(20);
    for (float& logit : logits) logit = random.Normal();
    Softmax(kernels::ActiveOps(), logits, 1.0f, p);
    float uniform = random.Uniform(0, 1);
    int32_t target = 0;
    while (target < 19 && uniform >= p[static_cast<size_t>(target)])
      uniform -= p[static_cast<size_t>(target++)];
    metrics.Add(ScoreDistribution(p, TokenId(target)));
  }
  EXPECT_LT(metrics.Report().ece, 0.01);
  EXPECT_LT(metrics.Report().full_ece, 0.02);
}

// --- On a text

class CalibrationTextTest : public ::testing::Test {
 protected:
  CalibrationTextTest()
      : model_(testing::AddressConfig(), 3), tokenizer_(*Tokenizer::Train("aaa bbb the cat the hat", 300)) {
    for (int i = 0; i < 300; ++i) text_ += i % 50 == 49 ? "\n<|endoftext|>\n" : "the cat and a hat, ";
  }

  CalibrationText On(WorkerPool& pool, int64_t documents = 16) {
    CalibrationText on{model_.weights(), model_, tokenizer_, pool, text_, {}};
    on.run.parallel_documents = documents;
    return on;
  }

  testing::RandomModel model_;
  Tokenizer tokenizer_;
  std::string text_;
};

TEST_F(CalibrationTextTest, TheOwnDistributionScoresWhatAnEvaluationDoes) {
  WorkerPool pool(2);
  Calibration c = Example();
  c.near = PerspectiveCalibration();
  const auto compared = CompareCalibrations(On(pool), c, 0.15f);
  ASSERT_TRUE(compared.ok()) << compared.status();
  const auto eval = EvalText(model_.weights(), model_, tokenizer_, pool, text_, {});
  ASSERT_TRUE(eval.ok());
  EXPECT_EQ(compared->tokens, eval->tokens);
  EXPECT_EQ(compared->bytes, eval->bytes);
  EXPECT_NEAR(compared->softmax.nats_per_token, eval->nats_per_token(), 1e-5);
  EXPECT_NEAR(compared->BitsPerByte(compared->softmax), eval->bits_per_byte(), 1e-5);
  EXPECT_GT(compared->disagreement, 0.0);
  EXPECT_NE(compared->average.nats_per_token, compared->softmax.nats_per_token);
}

TEST_F(CalibrationTextTest, AFitMakesARandomModelsConfidencesTrue) {
  WorkerPool pool(2);
  Calibration c;
  c.model_hash = kHash;
  ASSERT_TRUE(FitCalibration(On(pool), c).ok());
  EXPECT_TRUE(CalibrationFromJson(ToJson(c), kHash).ok());
  EXPECT_FALSE(c.far.has_value());
  const auto compared = CompareCalibrations(On(pool), c, 0.15f);
  ASSERT_TRUE(compared.ok());
  EXPECT_LT(compared->temperature.nats_per_token, compared->softmax.nats_per_token);
  EXPECT_LT(compared->perspectives.nats_per_token, compared->softmax.nats_per_token);
  EXPECT_LT(compared->perspectives.ece, compared->softmax.ece / 4);
  EXPECT_LT(compared->isotonic.ece, compared->softmax.ece / 4);
  const auto at_tau = CompareCalibrations(On(pool), c, c.near->tau);
  ASSERT_TRUE(at_tau.ok());
  EXPECT_NEAR(at_tau->disagreeing, 0.05, 0.03);
}

TEST_F(CalibrationTextTest, ThreadsAndDocumentsAtOnceChangeNothing) {
  WorkerPool one(1), three(3);
  Calibration a, b;
  ASSERT_TRUE(FitCalibration(On(one), a).ok());
  ASSERT_TRUE(FitCalibration(On(three), b).ok());
  EXPECT_EQ(ToJson(a), ToJson(b));
  a.near = a.far = PerspectiveCalibration();
  const auto together = CompareCalibrations(On(one), a, 0.15f),
             alone = CompareCalibrations(On(three, 1), a, 0.15f);
  ASSERT_TRUE(together.ok() && alone.ok());
  EXPECT_NEAR(together->softmax.brier, alone->softmax.brier, 1e-12);
  EXPECT_EQ(together->tokens, alone->tokens);
  EXPECT_NEAR(together->perspectives.full_ece, alone->perspectives.full_ece, 1e-9);
}

TEST_F(CalibrationTextTest, FewerTokensAreEachDocumentsFirstOnes) {
  WorkerPool pool(1);
  CalibrationText on = On(pool);
  on.run.max_tokens = 60;
  Calibration c = Example();
  c.near = PerspectiveCalibration();
  const auto compared = CompareCalibrations(on, c, 0.15f);
  ASSERT_TRUE(compared.ok());
  EXPECT_EQ(compared->tokens, 60);  // six documents, ten each
}

TEST_F(CalibrationTextTest, RefusesTextThatIsTooShortToFit) {
  WorkerPool pool(1);
  CalibrationText on = On(pool);
  on.run.max_tokens = 60;
  Calibration c;
  EXPECT_THAT(FitCalibration(on, c).message(), HasSubstr("at least 512"));
  on.text = "";
  EXPECT_FALSE(FitCalibration(on, c).ok());
}

}  // namespace
}  // namespace omni
