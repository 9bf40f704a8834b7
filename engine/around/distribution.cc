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

// log x = k ln 2 + log(1 + t), x = 2^k (1 + t) with 1 + t in [1/sqrt 2, sqrt 2);
// log(1 + t) = t - t^2 / 2 + t^3 q(t), q through nine Chebyshev nodes of that interval. No branch and no
// division, so that a loop of them is one of vectors.
inline float Log(float x) {
  constexpr int32_t kHalfRoot = 0x3f3504f3;  // 1 / sqrt 2
  constexpr float kLn2High = 0.693145752f, kLn2Low = 1.42860677e-6f;
  constexpr float kPoly[] = {0.333333312f,  -0.24999997f, 0.200007157f,  -0.166678023f, 0.142490576f,
                             -0.124256873f, 0.116854199f, -0.114797338f, 0.0697161144f};
  x = std::max(x, std::numeric_limits<float>::min());
  const int32_t offset = std::bit_cast<int32_t>(x) - kHalfRoot;
  const float t = std::bit_cast<float>((offset & 0x7fffff) + kHalfRoot) - 1.0f;
  float q = kPoly[8];
  for (int i = 7; i >= 0; --i) q = q * t + kPoly[i];
  const float z = t * t, k = static_cast<float>(offset >> 23);
  return ((q * t * z - 0.5f * z) + k * kLn2Low) + t + k * kLn2High;
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
