#include "engine/train/balance.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace omni::train {

void BalanceStep(std::span<const int64_t> counts, const BalanceSettings& settings, std::span<float> loads,
                 std::span<float> bias) {
  const auto n = static_cast<double>(counts.size());
  const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  const double weight = std::min(1.0, total / settings.tokens);
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double load = static_cast<double>(loads[i]);
    loads[i] = static_cast<float>(load + weight * (static_cast<double>(counts[i]) / total - load));
    const double missing = 1.0 / n - static_cast<double>(loads[i]);
    const double sign = missing > 0 ? 1.0 : missing < 0 ? -1.0 : 0.0;
    const double share = settings.soft > 0 ? std::min(1.0, std::abs(missing) * n / settings.soft) : 1.0;
    const double change = settings.rate * sign * share;
    bias[i] = static_cast<float>(static_cast<double>(bias[i]) + change);
    sum += static_cast<double>(bias[i]);
  }
  for (float& b : bias) b = static_cast<float>(static_cast<double>(b) - sum / n);
}

void BalanceExperts(std::span<const int32_t> taken, std::span<const int32_t> balanced_of,
                    const BalanceSettings& settings, std::span<float> loads,
                    std::span<float> bias_of_experts) {
  std::vector<int64_t> counts(loads.size(), 0);
  const auto balanced = [&](size_t expert) { return static_cast<size_t>(balanced_of[expert]); };
  for (int32_t expert : taken) ++counts[balanced(static_cast<size_t>(expert))];
  std::vector<float> bias(loads.size());
  for (size_t e = 0; e < balanced_of.size(); ++e) bias[balanced(e)] = bias_of_experts[e];
  BalanceStep(counts, settings, loads, bias);
  for (size_t e = 0; e < balanced_of.size(); ++e) bias_of_experts[e] = bias[balanced(e)];
}

}  // namespace omni::train
