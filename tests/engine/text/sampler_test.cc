#include "engine/text/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/base/splitmix.h"
#include "kernels/op.h"

namespace omni {
namespace {

using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

SamplerSettings Plain() {
  SamplerSettings s;
  s.temperature = 1;
  s.top_k = 0;
  s.top_p = 1;
  return s;
}

SamplerSettings Greedy() {
  SamplerSettings s;
  s.temperature = 0;
  return s;
}

int32_t Take(const std::vector<float>& logits, const SamplerSettings& s, uint64_t position = 0,
             const std::vector<TokenId>& history = {}) {
  return Sample(logits, history, position, s).token.value;
}

std::vector<double> Softmax(const std::vector<float>& logits, double temperature = 1) {
  std::vector<double> p;
  for (float l : logits) p.push_back(std::exp(l / temperature));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

// Draws at 40 000 positions; each token's count may deviate five binomial standard deviations from its
// probability.
void ExpectFrequencies(const std::vector<float>& logits, const SamplerSettings& s,
                       const std::vector<double>& want) {
  constexpr int kDraws = 40000;
  std::vector<int> count(logits.size());
  for (int i = 0; i < kDraws; ++i) ++count[static_cast<size_t>(Take(logits, s, static_cast<uint64_t>(i)))];
  for (size_t i = 0; i < want.size(); ++i) {
    const double tolerance = 5 * std::sqrt(kDraws * want[i] * (1 - want[i]));
    EXPECT_NEAR(count[i], kDraws * want[i], tolerance) << "token " << i;
  }
}

const std::vector<float> kLogits = {1.0f, 2.0f, 0.5f, 3.0f, -1.0f, 2.5f};

// Probabilities renormalised over the tokens of `kept`.
std::vector<double> Only(std::vector<double> p, const std::vector<size_t>& kept) {
  std::vector<double> out(p.size());
  double sum = 0;
  for (size_t i : kept) sum += p[i];
  for (size_t i : kept) out[i] = p[i] / sum;
  return out;
}

TEST(Sampler, GreedyTakesTheLargestAndOfEqualOnesTheLowestId) {
  EXPECT_EQ(Take({1, 3, 2}, Greedy()), 1);
  EXPECT_EQ(Take({1, 3, 3, 3}, Greedy()), 1);
  EXPECT_EQ(Take({-0.0f, 0.0f}, Greedy()), 0);
  EXPECT_EQ(Take({0.0f, -0.0f}, Greedy()), 0);
}

TEST(Sampler, ProbabilityIsThatOfTheUnmodifiedSoftmax) {
  const std::vector<double> p = Softmax(kLogits);
  SamplerSettings s = Plain();
  s.temperature = 0.3f, s.top_k = 3, s.repetition_penalty = 2;
  const std::vector<TokenId> history = {TokenId(3)};
  for (uint64_t position = 0; position < 50; ++position) {
    const Sampled got = Sample(kLogits, history, position, s);
    // Six exponentials and five additions, each within a few rounding errors.
    EXPECT_NEAR(got.probability, p[got.token.index()], 20 * 6e-8);
  }
  EXPECT_NEAR(Sample(kLogits, {}, 0, Greedy()).probability, p[3], 20 * 6e-8);
}

TEST(Sampler, DrawsFollowTheSoftmax) { ExpectFrequencies(kLogits, Plain(), Softmax(kLogits)); }

TEST(Sampler, TemperatureScalesTheLogits) {
  SamplerSettings s = Plain();
  s.temperature = 2.5f;
  ExpectFrequencies(kLogits, s, Softmax(kLogits, 2.5));
  s.temperature = 1e-30f;
  for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(Take(kLogits, s, i), 3);
}

TEST(Sampler, TopKKeepsTheLargestAndOfEqualOnesTheLowerIds) {
  SamplerSettings s = Plain();
  s.top_k = 2;
  ExpectFrequencies(kLogits, s, Only(Softmax(kLogits), {3, 5}));
  const std::vector<float> equal(5, 1.0f);
  ExpectFrequencies(equal, s, {0.5, 0.5, 0, 0, 0});
  s.top_k = 1;
  for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(Take(equal, s, i), 0);
  s.top_k = 1000;
  ExpectFrequencies(kLogits, s, Softmax(kLogits));
}

TEST(Sampler, TopPKeepsTheShortestSufficientPrefix) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.25f), std::log(0.15f)};
  SamplerSettings s = Plain();
  s.top_p = 0.7f;
  ExpectFrequencies(logits, s, Only(Softmax(logits), {1, 2}));
  s.top_p = 0.76f;
  ExpectFrequencies(logits, s, Only(Softmax(logits), {1, 2, 3}));
  s.top_p = 1e-6f;
  ExpectFrequencies(logits, s, {0, 1, 0, 0});
}

TEST(Sampler, TopPCountsWithinWhatTopKLeft) {
  const std::vector<float> logits = {std::log(0.4f), std::log(0.3f), std::log(0.2f), std::log(0.1f)};
  SamplerSettings s = Plain();
  s.top_k = 2, s.top_p = 0.5f;  // 0.4 / 0.7 is more than half
  ExpectFrequencies(logits, s, {1, 0, 0, 0});
}

TEST(Sampler, MinPIsRelativeToTheLargest) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.5f), std::log(0.25f), std::log(0.15f)};
  SamplerSettings s = Plain();
  s.min_p = 0.25f;  // at least 0.125
  ExpectFrequencies(logits, s, Only(Softmax(logits), {1, 2, 3}));
  s.min_p = 1;
  ExpectFrequencies(logits, s, {0, 1, 0, 0});
}

TEST(Sampler, PenaltyDividesPositiveAndMultipliesNegativeLogitsOnceEach) {
  SamplerSettings s = Greedy();
  s.repetition_penalty = 2;
  const std::vector<TokenId> twice = {TokenId(0), TokenId(0)};
  EXPECT_EQ(Take({3.0f, 1.4f}, s, 0, twice), 0);  // 1.5, not 0.75
  EXPECT_EQ(Take({3.0f, 1.6f}, s, 0, twice), 1);
  EXPECT_EQ(Take({-1.0f, -1.5f}, s, 0, twice), 1);  // -2
  EXPECT_EQ(Take({-1.0f, -2.5f}, s, 0, twice), 0);
}

TEST(Sampler, PenaltySeesOnlyTheWindowAndIgnoresForeignIds) {
  SamplerSettings s = Greedy();
  s.repetition_penalty = 2;
  s.repetition_window = 2;
  const std::vector<TokenId> history = {TokenId(0), TokenId(5), TokenId(-1)};
  EXPECT_EQ(Take({3.0f, 2.0f}, s, 0, history), 0);
  s.repetition_window = 3;
  EXPECT_EQ(Take({3.0f, 2.0f}, s, 0, history), 1);
  s.repetition_window = 0;
  EXPECT_EQ(Take({3.0f, 2.0f}, s, 0, history), 0);
}

TEST(Sampler, SeedAndPositionDecideTheDraw) {
  const std::vector<float> logits(64, 0.0f);
  SamplerSettings a = Plain(), b = Plain();
  b.seed = 1;
  int equal = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    EXPECT_EQ(Take(logits, a, i), Take(logits, a, i));
    // Equal weights: the draw is the counter's number itself.
    EXPECT_EQ(Take(logits, a, i), static_cast<int32_t>(64 * CounterUniform(0, i)));
    equal += Take(logits, a, i) == Take(logits, b, i);
  }
  EXPECT_LT(equal, 60);  // 1000/64 expected, deviation 4
}

TEST(Sampler, NanAndInfiniteLogitsAreNeverACrash) {
  SamplerSettings s = Plain();
  for (uint64_t i = 0; i < 200; ++i) {
    EXPECT_EQ(Take({kNan, 1.0f, kNan, -kInf}, s, i), 1);
    EXPECT_EQ(Take({1.0f, kInf, kNan}, s, i), 1);
  }
  for (const SamplerSettings& each : {Plain(), Greedy(), SamplerSettings()}) {
    for (const std::vector<float>& none :
         {std::vector<float>{kNan, kNan}, {-kInf, kNan}, {-kInf, -kInf}, {}}) {
      const Sampled got = Sample(none, {}, 3, each);
      EXPECT_EQ(got.token, TokenId(0));
      EXPECT_EQ(got.probability, 0.0f);
    }
  }
  EXPECT_EQ(Sample(std::vector<float>{kNan, 5.0f}, {}, 0, Greedy()).probability, 1.0f);
  s.repetition_penalty = 100;
  const std::vector<TokenId> history = {TokenId(0)};
  EXPECT_EQ(Take({-3e38f, kNan}, s, 0, history), 0);
  s.repetition_penalty = 0.01f;
  EXPECT_EQ(Take({3e38f, kNan}, s, 0, history), 0);
}

TEST(Sampler, DrawsOnlyFromTheTailsItShouldOverALargeVocabulary) {
  std::mt19937 rng(5);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(32768);
  for (float& l : logits) l = normal(rng);
  SamplerSettings s;  // the defaults: top 40 of them
  std::vector<float> sorted = logits;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  for (uint64_t i = 0; i < 200; ++i) EXPECT_GE(logits[static_cast<size_t>(Take(logits, s, i))], sorted[39]);
}

TEST(Likeliest, IsTheSoftmaxByFallingProbabilityAndOfEqualsTheLowerIdFirst) {
  const std::vector<float> logits = {1.0f, 3.0f, kNan, 3.0f, -kInf, 2.0f, -0.0f, 0.0f};
  const double sum = std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0) + 2;
  const std::pair<int32_t, double> want[] = {{1, 3.0}, {3, 3.0}, {5, 2.0}, {0, 1.0}, {6, 0.0}, {7, 0.0}};
  for (int32_t count : {0, 1, 3, 6, 20}) {
    const std::vector<Sampled> got = Likeliest(logits, count);
    ASSERT_EQ(got.size(), static_cast<size_t>(std::min(count, 6)));  // what is never drawn is never told
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].token.value, want[i].first);
      EXPECT_NEAR(got[i].probability, std::exp(want[i].second) / sum, 1e-6);
    }
  }
  EXPECT_TRUE(Likeliest(std::vector<float>{kNan, -kInf}, 5).empty());
  EXPECT_TRUE(Likeliest(logits, -1).empty());
}

TEST(Likeliest, AreTheFirstOfAllOfALargeVocabulary) {
  std::mt19937 rng(9);
  std::normal_distribution<float> normal(0, 3);
  for (size_t vocab : {1024, 1025, 1300, 4096, 5000}) {
    for (const bool coarse : {false, true}) {  // coarse: many equal ones
      std::vector<float> logits(vocab);
      for (float& l : logits) l = coarse ? std::round(normal(rng)) : normal(rng);
      logits[3] = kNan, logits[vocab - 1] = 9, logits[vocab - 2] = 9;
      // Nearly all are never drawn; and all of those that are the largest in a place of their own.
      std::vector<float> few(vocab, -kInf), places(vocab, 0.0f);
      for (size_t i = 0; i < 30; ++i) few[i * 7] = logits[i];
      for (size_t i = 0; i < vocab; i += 256) places[i] = 5;
      for (const std::vector<float>& one : {logits, few, places}) {
        const std::vector<Sampled> all = Likeliest(one, static_cast<int32_t>(vocab));
        for (size_t count : {1, 2, 39, 40, 63, 64, 65, 300}) {
          const std::vector<Sampled> first = Likeliest(one, static_cast<int32_t>(count));
          ASSERT_EQ(first.size(), std::min(count, all.size()));
          for (size_t i = 0; i < first.size(); ++i)
            ASSERT_EQ(first[i].token, all[i].token) << vocab << " " << i;
        }
      }
    }
  }
}

TEST(Likeliest, SaysTheSamplersProbabilityWhateverItsSettings) {
  std::mt19937 rng(6);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(2048);
  for (float& l : logits) l = normal(rng);
  const std::vector<Sampled> all = Likeliest(logits, 2048);
  SamplerSettings s;
  s.repetition_penalty = 1.4f;
  const std::vector<TokenId> history = {TokenId(5), TokenId(77)};
  for (uint64_t i = 0; i < 100; ++i) {
    const Sampled drawn = Sample(logits, history, i, s);
    const auto same =
        std::find_if(all.begin(), all.end(), [&](const Sampled& a) { return a.token == drawn.token; });
    ASSERT_NE(same, all.end());
    EXPECT_EQ(same->probability, drawn.probability);
  }
}

// As the steps are written down: every candidate by falling logit and rising id, summed in that order.
Sampled ByDefinition(const std::vector<float>& logits, uint64_t position, const SamplerSettings& s) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<float> weights;
  double total = 0, sum = 0;
  for (size_t id : order) {
    weights.push_back(kernels::Exp((logits[id] - logits[order[0]]) / s.temperature));
    total += weights.back();
  }
  const double target = CounterUniform(s.seed, position) * total;
  size_t i = 0;
  for (; i + 1 < order.size(); ++i) {
    sum += weights[i];
    if (target < sum) break;
  }
  return {TokenId(static_cast<int32_t>(order[i])), 0};
}

TEST(Sampler, DrawsFromAWholeVocabularyWhatTheDefinitionDraws) {
  std::mt19937 rng(8);
  std::normal_distribution<float> normal(0, 3);
  SamplerSettings s = Plain();
  for (size_t vocab : {255, 256, 257, 4096, 32768}) {
    std::vector<float> logits(vocab);
    for (float& l : logits) l = normal(rng);
    for (size_t i = 0; i + 7 < vocab; i += 7) logits[i] = logits[i + 3] = std::round(logits[i]);  // equals
    logits[1] = -kInf;
    for (float temperature : {0.01f, 0.3f, 1.0f, 5.0f, 100.0f}) {
      s.temperature = temperature;
      for (uint64_t position = 0; position < 40; ++position) {
        EXPECT_EQ(Sample(logits, {}, position, s).token, ByDefinition(logits, position, s).token)
            << vocab << " at " << position;
      }
    }
  }
}

TEST(SamplerSettings, ErrorsNameTheFlagTheValueAndTheRange) {
  EXPECT_TRUE(Validate(SamplerSettings()).ok());
  const struct {
    const char* message;
    void (*change)(SamplerSettings&);
  } cases[] = {
      {"(--temp) is -1", [](SamplerSettings& s) { s.temperature = -1; }},
      {"(--temp) is nan", [](SamplerSettings& s) { s.temperature = kNan; }},
      {"(--top-k) is -5", [](SamplerSettings& s) { s.top_k = -5; }},
      {"(--top-p) is 0", [](SamplerSettings& s) { s.top_p = 0; }},
      {"(--top-p) is 1.5", [](SamplerSettings& s) { s.top_p = 1.5f; }},
      {"(--min-p) is 2", [](SamplerSettings& s) { s.min_p = 2; }},
      {"(--repeat-penalty) is 0", [](SamplerSettings& s) { s.repetition_penalty = 0; }},
      {"(--repeat-last-n) is -1", [](SamplerSettings& s) { s.repetition_window = -1; }},
  };
  for (const auto& c : cases) {
    SamplerSettings s;
    c.change(s);
    EXPECT_EQ(Validate(s).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Validate(s).message(), AllOf(HasSubstr(c.message), HasSubstr("must be")));
  }
}

}  // namespace
}  // namespace omni
