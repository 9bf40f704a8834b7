#include "engine/train/balance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

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

}  // namespace omni::train
