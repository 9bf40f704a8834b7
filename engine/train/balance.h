// Balance of a router's choices over the whole corpus, by biases instead of a loss.
#pragma once

#include <cstdint>
#include <span>

namespace omni::train {

struct BalanceSettings {
  double rate = 0;    // of the biases, a step
  double tokens = 1;  // of the moving mean of the loads
  double soft = 0;    // within that share of the mean load a step is smaller, in proportion; 0: never
};

// One layer after a step. counts: the step's tokens by what is balanced (experts, or whole regions); loads:
// the moving mean of their shares, 1 / size at the start; bias: rises by the rate where the load is below the
// mean, falls by it where it is above (by less near it, if soft), and keeps the mean zero. All of one size,
// and something was counted.
void BalanceStep(std::span<const int64_t> counts, const BalanceSettings& settings, std::span<float> loads,
                 std::span<float> bias);

// The same from the experts that the tokens took: balanced_of says of every expert what is balanced, itself
// or its region, an index into loads; bias_of_experts has the bias of each.
void BalanceExperts(std::span<const int32_t> taken, std::span<const int32_t> balanced_of,
                    const BalanceSettings& settings, std::span<float> loads,
                    std::span<float> bias_of_experts);

}  // namespace omni::train
