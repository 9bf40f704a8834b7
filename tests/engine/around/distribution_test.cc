#include "engine/around/distribution.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/random_model.h"

namespace omni {
namespace {

using testing::Random;

const kernels::Ops& Ops() { return kernels::ActiveOps(); }

std::vector<float> RandomLogits(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> logits(n);
  for (float& logit : logits) logit = 4 * random.Normal();
  return logits;
}

std::vector<float> SoftmaxOf(const std::vector<float>& logits, float inverse_temperature = 1,
                             const kernels::Ops& ops = kernels::ActiveOps()) {
  std::vector<float> p(logits.size());
  Softmax(ops, logits, inverse_temperature, p);
  return p;
}

TEST(SoftmaxTest, IsTheDefinitionAtEveryTemperature) {
  const std::vector<float> logits = RandomLogits(301, 2);
  for (const float temperature : {0.5f, 1.0f, 3.0f}) {
    const std::vector<float> p = SoftmaxOf(logits, 1 / temperature);
    double sum = 0;
    for (const float logit : logits)
      sum += std::exp(static_cast<double>(logit) / static_cast<double>(temperature));
    for (size_t i = 0; i < p.size(); ++i) {
      const double exact = std::exp(static_cast<double>(logits[i]) / static_cast<double>(temperature)) / sum;
      EXPECT_NEAR(static_cast<double>(p[i]), exact, 1e-5 * exact);
    }
  }
}

TEST(DistributionTest, EveryInstructionSetGivesTheSameBytes) {
  const std::vector<float> logits = RandomLogits(4099, 3);
  for (const float inverse : {1.0f, 0.8f}) {
    const std::vector<float> scalar = SoftmaxOf(logits, inverse, *kernels::OpsFor(kernels::Isa::kScalar));
    for (kernels::Isa isa : kernels::kAllIsas) {
      const kernels::Ops* ops = kernels::OpsFor(isa);
      if (ops == nullptr) continue;
      const std::vector<float> p = SoftmaxOf(logits, inverse, *ops);
      EXPECT_EQ(std::memcmp(p.data(), scalar.data(), p.size() * sizeof(float)), 0) << kernels::IsaName(isa);
    }
  }
}

TEST(DistributionTest, EveryInstructionSetIsAsFarApart) {
  std::vector<std::vector<float>> all;
  for (uint64_t seed = 20; seed < 24; ++seed) all.push_back(SoftmaxOf(RandomLogits(4099, seed)));
  const float scalar = Disagreement(*kernels::OpsFor(kernels::Isa::kScalar), all);
  EXPECT_GT(scalar, 0.1f);
  for (kernels::Isa isa : kernels::kAllIsas) {
    const kernels::Ops* ops = kernels::OpsFor(isa);
    if (ops == nullptr) continue;
    EXPECT_EQ(Disagreement(*ops, all), scalar) << kernels::IsaName(isa);
  }
}

TEST(EntropyTest, OfAUniformDistributionIsTheLogOfItsSize) {
  for (const size_t n : {1u, 2u, 15u, 16u, 17u, 1000u}) {
    const std::vector<float> p(n, 1.0f / static_cast<float>(n));
    EXPECT_NEAR(Entropy(Ops(), p), std::log(static_cast<double>(n)),
                1e-5 * (1 + std::log(static_cast<double>(n))));
  }
  EXPECT_EQ(Entropy(Ops(), std::vector<float>{0, 1, 0}), 0.0f);
}

TEST(JensenShannonTest, IsNothingForEqualOnesAndLogTwoForDisjointOnes) {
  const std::vector<float> p = SoftmaxOf(RandomLogits(777, 4));
  EXPECT_EQ(JensenShannon(Ops(), p, p), 0.0f);
  EXPECT_NEAR(JensenShannon(Ops(), std::vector<float>{1, 0}, std::vector<float>{0, 1}), std::numbers::ln2,
              1e-6);
}

TEST(JensenShannonTest, IsSymmetricAndTheDefinition) {
  const std::vector<float> p = SoftmaxOf(RandomLogits(777, 5)), q = SoftmaxOf(RandomLogits(777, 6));
  double exact = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double a = static_cast<double>(p[i]), b = static_cast<double>(q[i]), m = (a + b) / 2;
    exact += 0.5 * a * std::log(a / m) + 0.5 * b * std::log(b / m);
  }
  EXPECT_NEAR(JensenShannon(Ops(), p, q), exact, 1e-5);
  EXPECT_EQ(JensenShannon(Ops(), p, q), JensenShannon(Ops(), q, p));
}

TEST(DisagreementTest, IsTheMeanOfAllPairs) {
  std::vector<std::vector<float>> all;
  for (uint64_t seed = 10; seed < 14; ++seed) all.push_back(SoftmaxOf(RandomLogits(300, seed)));
  double sum = 0;
  for (size_t a = 0; a < 4; ++a) {
    for (size_t b = 0; b < a; ++b) sum += static_cast<double>(JensenShannon(Ops(), all[a], all[b]));
  }
  EXPECT_NEAR(Disagreement(Ops(), all), sum / 6, 1e-6);
  EXPECT_EQ(Disagreement(Ops(), std::vector(4, all[0])), 0.0f);
}

TEST(MixTest, WeighsInOrder) {
  const std::vector<std::vector<float>> all = {{1, 0, 0}, {0, 1, 0}, {0, 0.5, 0.5}};
  std::vector<float> mixed(3);
  Mix(all, std::vector<float>{0.5f, 0.25f, 0.25f}, mixed);
  EXPECT_THAT(mixed, ::testing::ElementsAre(0.5f, 0.375f, 0.125f));
}

TEST(ArgMaxTest, TakesTheFirstOfEqualOnes) {
  EXPECT_EQ(ArgMax(std::vector<float>{0, 2, 1, 2}), 1);
  Random random(7);
  for (const size_t n : {1u, 2u, 15u, 16u, 17u, 47u, 48u, 1000u}) {
    for (int i = 0; i < 50; ++i) {
      std::vector<float> values(n);
      for (float& value : values) value = static_cast<float>(random.Below(9)) - 8.0f;
      EXPECT_EQ(ArgMax(values), std::max_element(values.begin(), values.end()) - values.begin()) << n;
    }
  }
}

}  // namespace
}  // namespace omni
