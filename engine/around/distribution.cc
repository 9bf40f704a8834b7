#include "engine/around/distribution.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

namespace omni {
namespace {

constexpr size_t kLanes = 16;

// The sum of term(i) over [0, n), in the engine's order.
template <typename Term>
float FixedSum(size_t n, Term&& term) {
  std::array<float, kLanes> sums = {};
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += term(i + lane);
  }
  for (size_t lane = 0; i < n; ++i, ++lane) sums[lane] += term(i);
  for (size_t half = kLanes / 2; half > 0; half /= 2) {
    for (size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

// log x = k ln 2 + 2 atanh(s), s = (m - 1) / (m + 1), x = 2^k m with m in [1/sqrt 2, sqrt 2): no branch, so
// that a loop of them is one of vectors.
inline float Log(float x) {
  constexpr int32_t kHalfRoot = 0x3f3504f3;  // 1 / sqrt 2
  constexpr float kLn2High = 0.693145752f, kLn2Low = 1.42860677e-6f;
  x = std::max(x, std::numeric_limits<float>::min());
  const int32_t offset = std::bit_cast<int32_t>(x) - kHalfRoot;
  const int32_t exponent = offset >> 23;
  const float m = std::bit_cast<float>((offset & 0x7fffff) + kHalfRoot);
  const float s = (m - 1.0f) / (m + 1.0f), z = s * s;
  const float tail = z * (0.333333333f + z * (0.2f + z * (0.142857143f + z * 0.111111111f)));
  const auto k = static_cast<float>(exponent);
  return (2.0f * s + 2.0f * s * tail + k * kLn2Low) + k * kLn2High;
}

}  // namespace

float NaturalLog(float x) { return Log(x); }

void Softmax(const kernels::Ops& ops, std::span<const float> logits, float inverse_temperature,
             std::span<float> p) {
  const auto n = static_cast<int64_t>(logits.size());
  float max = 0, sum = 0;
  if (inverse_temperature == 1.0f) {
    sum = ops.exp_sum(logits.data(), n, p.data(), &max);
  } else {
    for (size_t i = 0; i < logits.size(); ++i) p[i] = logits[i] * inverse_temperature;
    sum = ops.exp_sum(p.data(), n, p.data(), &max);
  }
  for (float& value : p) value = value / sum;
}

float Entropy(std::span<const float> p) {
  return 0.0f - FixedSum(p.size(), [&](size_t i) { return p[i] * Log(p[i]); });
}

float JensenShannon(std::span<const float> p, std::span<const float> q) {
  const float of_middle = 0.0f - FixedSum(p.size(), [&](size_t i) {
                            const float m = 0.5f * (p[i] + q[i]);
                            return m * Log(m);
                          });
  return std::max(0.0f, of_middle - 0.5f * (Entropy(p) + Entropy(q)));
}

float Disagreement(std::span<const std::vector<float>> distributions) {
  std::vector<float> entropies;
  for (const std::vector<float>& p : distributions) entropies.push_back(Entropy(p));
  float sum = 0, pairs = 0;
  for (size_t a = 0; a < distributions.size(); ++a) {
    for (size_t b = a + 1; b < distributions.size(); ++b) {
      const std::vector<float>&p = distributions[a], &q = distributions[b];
      const float of_middle = 0.0f - FixedSum(p.size(), [&](size_t i) {
                                const float m = 0.5f * (p[i] + q[i]);
                                return m * Log(m);
                              });
      sum += std::max(0.0f, of_middle - 0.5f * (entropies[a] + entropies[b]));
      pairs += 1.0f;
    }
  }
  return pairs > 0 ? sum / pairs : 0.0f;
}

void Mix(std::span<const std::vector<float>> distributions, std::span<const float> weights,
         std::span<float> mixed) {
  for (size_t i = 0; i < mixed.size(); ++i) mixed[i] = weights[0] * distributions[0][i];
  for (size_t k = 1; k < distributions.size(); ++k) {
    for (size_t i = 0; i < mixed.size(); ++i) mixed[i] += weights[k] * distributions[k][i];
  }
}

int64_t ArgMax(std::span<const float> values) {
  return std::max_element(values.begin(), values.end()) - values.begin();
}

}  // namespace omni
