#include "engine/around/context_memory.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "tests/testing/random_model.h"

namespace omni {
namespace {

using testing::Random;

std::vector<float> RandomHidden(Random& random, int64_t d) {
  std::vector<float> y(static_cast<size_t>(d));
  for (float& x : y) x = random.Normal();
  return y;
}

float ProbabilityOf(TokenId token, const ContextGuess& guess) {
  for (const auto& [t, p] : guess.tokens) {
    if (t == token) return p;
  }
  return 0;
}

TEST(SignProjection, DistancesAreAngles) {
  Random random(1);
  for (int64_t d : {5, 64, 100, 300}) {
    const SignProjection project(d);
    for (double cosine : {-0.5, 0.0, 0.5, 0.9, 0.99}) {
      double sum = 0;
      for (int pair = 0; pair < 30; ++pair) {
        const std::vector<float> a = RandomHidden(random, d), noise = RandomHidden(random, d);
        double aa = 0, an = 0;
        for (size_t i = 0; i < a.size(); ++i) {
          aa += static_cast<double>(a[i]) * static_cast<double>(a[i]);
          an += static_cast<double>(a[i]) * static_cast<double>(noise[i]);
        }
        std::vector<float> b(a.size());
        double nn = 0;
        for (size_t i = 0; i < a.size(); ++i) {
          const double n = static_cast<double>(noise[i]) - an / aa * static_cast<double>(a[i]);
          nn += n * n;
        }
        for (size_t i = 0; i < a.size(); ++i) {
          const double n = static_cast<double>(noise[i]) - an / aa * static_cast<double>(a[i]);
          b[i] = static_cast<float>(cosine * static_cast<double>(a[i]) / std::sqrt(aa) +
                                    std::sqrt(1 - cosine * cosine) * n / std::sqrt(nn));
        }
        sum += static_cast<double>(Distance(project(a), project(b)));
      }
      EXPECT_NEAR(sum / 30 / kHyperBits, std::acos(cosine) / 3.14159265, 0.02) << d << " " << cosine;
    }
  }
}

TEST(ContextMemory, RecallsWhatCameInTheLikeContext) {
  Random random(2);
  constexpr int64_t kWidth = 64, kVocab = 50;
  ContextMemory memory(std::make_shared<ContextCode>(kWidth, kVocab));
  const std::vector<float> one = RandomHidden(random, kWidth), other = RandomHidden(random, kWidth);
  const std::vector<TokenId> history = {TokenId(1), TokenId(2), TokenId(3)};
  EXPECT_TRUE(memory.Ask(history, one).empty());
  memory.Learn(TokenId(7));
  memory.Ask(history, other);
  memory.Learn(TokenId(8));
  // The same tokens: the hidden state tells which of the two it was.
  std::vector<float> nearly = one;
  for (float& x : nearly) x += 0.2f * random.Normal();
  for (const ContextGuess& guess : memory.Ask(history, nearly)) {
    EXPECT_GT(ProbabilityOf(TokenId(7), guess), 0.7f) << guess.order;
    EXPECT_LT(ProbabilityOf(TokenId(8), guess), 0.3f);
  }
  EXPECT_EQ(memory.Ask(history, nearly).size(), 3u);
  // Only the last token is the same: order 1 alone.
  const std::vector<TokenId> shorter = {TokenId(9), TokenId(9), TokenId(3)};
  const std::vector<ContextGuess> guesses = memory.Ask(shorter, nearly);
  ASSERT_EQ(guesses.size(), 1u);
  EXPECT_EQ(guesses[0].order, 1);
  // Another last token: nothing.
  EXPECT_TRUE(memory.Ask(std::vector<TokenId>{TokenId(3), TokenId(4)}, nearly).empty());
}

TEST(GuessMixer, StaysADistributionAndLearnsWhomToBelieve) {
  GuessMixer mixer;
  std::vector<float> p(4);
  float first = 0, last = 0;
  for (int i = 0; i < 400; ++i) {
    p.assign(4, 0.25f);
    const ContextGuess right{2, 3, {{TokenId(1), 0.9f}, {TokenId(2), 0.1f}}};
    const MixedGuesses mixed = mixer.Mix(std::vector<ContextGuess>{right}, p);
    EXPECT_NEAR(p[0] + p[1] + p[2] + p[3], 1, 1e-5);
    EXPECT_EQ(mixed.order, 2);
    EXPECT_GT(p[1], 0.25f);
    if (i == 0) first = mixed.weight;
    last = mixed.weight;
    mixer.Learn(TokenId(1));
  }
  EXPECT_GT(last, 0.7f);
  EXPECT_LT(first, 0.1f);
  for (int i = 0; i < 400; ++i) {
    p.assign(4, 0.25f);
    last = mixer.Mix(std::vector<ContextGuess>{{2, 3, {{TokenId(1), 1.0f}}}}, p).weight;
    mixer.Learn(TokenId(3));
  }
  EXPECT_LT(last, 0.5f);
}

TEST(NgramCache, Counts) {
  NgramCache cache;
  const std::vector<TokenId> history = {TokenId(1), TokenId(2)};
  for (int32_t came : {5, 5, 6, 5}) {
    cache.Ask(history);
    cache.Learn(TokenId(came));
  }
  const std::vector<ContextGuess> guesses = cache.Ask(history);
  ASSERT_EQ(guesses.size(), 2u);
  EXPECT_FLOAT_EQ(ProbabilityOf(TokenId(5), guesses[1]), 0.75f);
  EXPECT_EQ(guesses[1].order, 2);
}

}  // namespace
}  // namespace omni
