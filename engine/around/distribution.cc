#include "engine/around/distribution.h"

#include <algorithm>
#include <array>
#include <utility>

namespace omni {

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

float Entropy(const kernels::Ops& ops, std::span<const float> p) {
  return 0.0f - ops.m_log_m(p.data(), p.data(), static_cast<int64_t>(p.size()));
}

float JensenShannon(const kernels::Ops& ops, std::span<const float> p, std::span<const float> q) {
  const float of_middle = 0.0f - ops.m_log_m(p.data(), q.data(), static_cast<int64_t>(p.size()));
  return std::max(0.0f, of_middle - 0.5f * (Entropy(ops, p) + Entropy(ops, q)));
}

float Disagreement(const kernels::Ops& ops, std::span<const std::vector<float>> distributions,
                   WorkerPool* pool) {
  std::vector<std::pair<size_t, size_t>> of;  // the distributions themselves, then their pairs
  for (size_t a = 0; a < distributions.size(); ++a) of.emplace_back(a, a);
  for (size_t a = 0; a < distributions.size(); ++a) {
    for (size_t b = a + 1; b < distributions.size(); ++b) of.emplace_back(a, b);
  }
  std::vector<float> entropies(of.size());
  ForEachOn(pool, of.size(), [&](size_t i) {
    const std::vector<float>&p = distributions[of[i].first], &q = distributions[of[i].second];
    entropies[i] = 0.0f - ops.m_log_m(p.data(), q.data(), static_cast<int64_t>(p.size()));
  });
  float sum = 0, pairs = 0;
  for (size_t i = distributions.size(); i < of.size(); ++i) {
    sum += std::max(0.0f, entropies[i] - 0.5f * (entropies[of[i].first] + entropies[of[i].second]));
    pairs += 1.0f;
  }
  return pairs > 0 ? sum / pairs : 0.0f;
}

void ForEachOn(WorkerPool* pool, size_t n, absl::FunctionRef<void(size_t)> fn) {
  const auto all = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) fn(static_cast<size_t>(i));
  };
  if (pool == nullptr) {
    all(0, static_cast<int64_t>(n));
  } else {
    pool->Run(static_cast<int64_t>(n), 1, all);
  }
}

void Mix(std::span<const std::vector<float>> distributions, std::span<const float> weights,
         std::span<float> mixed) {
  for (size_t i = 0; i < mixed.size(); ++i) mixed[i] = weights[0] * distributions[0][i];
  for (size_t k = 1; k < distributions.size(); ++k) {
    for (size_t i = 0; i < mixed.size(); ++i) mixed[i] += weights[k] * distributions[k][i];
  }
}

int64_t ArgMax(std::span<const float> values) {
  // The largest first, by lanes that a compiler makes vectors of; then where it is.
  constexpr size_t kLanes = 16;
  float largest = values[0];
  size_t i = 0;
  if (values.size() >= kLanes) {
    std::array<float, kLanes> lanes;
    std::copy_n(values.begin(), kLanes, lanes.begin());
    for (i = kLanes; i + kLanes <= values.size(); i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane)
        lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
    }
    for (const float value : lanes) largest = std::max(largest, value);
  }
  for (; i < values.size(); ++i) largest = std::max(largest, values[i]);
  return std::find(values.begin(), values.end(), largest) - values.begin();
}

}  // namespace omni
