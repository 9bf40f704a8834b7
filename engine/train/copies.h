// What is done to the copies of neurons that experts have of their own, beside their update by gradients.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <span>
#include <vector>

namespace omni::train {

// Share of the learning rate that each copy is updated with: (used / total) ^ power, at least 0.05, where
// `used` are its tokens of the `total` that the gradients are from; 0 for one that no token has used.
std::vector<float> RatesByUse(std::span<const int64_t> used, int64_t total, double power);

// w [experts, ...]: moves each expert's part by that share of the way to the mean of its region's. region_of:
// of each expert.
void PullToRegions(torch::Tensor& w, const std::vector<int32_t>& region_of, double share);

// w [copies, rows, cols]: every copy becomes the first one plus normal noise, of `noise` times the row's root
// mean square. The same key gives the same noise.
void Divide(torch::Tensor& w, double noise, uint64_t key);

}  // namespace omni::train
