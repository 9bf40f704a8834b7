#include "engine/train/copies.h"

#include <ATen/CPUGeneratorImpl.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

namespace omni::train {

using torch::Tensor;

std::vector<float> RatesByUse(std::span<const int64_t> used, int64_t total, double power) {
  constexpr double kLeast = 0.05;
  std::vector<float> rates;
  for (int64_t tokens : used) {
    const double share = static_cast<double>(tokens) / static_cast<double>(total);
    rates.push_back(tokens == 0 ? 0.0f : static_cast<float>(std::max(kLeast, std::pow(share, power))));
  }
  return rates;
}

void PullToRegions(Tensor& w, const std::vector<int32_t>& region_of, double share) {
  torch::NoGradGuard no_grad;
  const int32_t regions = *std::max_element(region_of.begin(), region_of.end()) + 1;
  for (int32_t region = 0; region < regions; ++region) {
    std::vector<int64_t> experts;
    for (size_t e = 0; e < region_of.size(); ++e) {
      if (region_of[e] == region) experts.push_back(static_cast<int64_t>(e));
    }
    const Tensor index = torch::tensor(experts), own = w.index_select(0, index);
    w.index_copy_(0, index, own.lerp(own.mean(0, true).expand_as(own), share));
  }
}

void Divide(Tensor& w, double noise, uint64_t key) {
  torch::NoGradGuard no_grad;
  const Tensor parent = w.narrow(0, 0, 1).clone();
  w.copy_(parent.expand_as(w));
  if (noise == 0) return;
  auto generator = at::detail::createCPUGenerator(key);
  const Tensor rms = parent.pow(2).mean(-1, true).sqrt();
  w.addcmul_(torch::empty_like(w).normal_(0.0, 1.0, generator), rms.expand_as(w), noise);
}

}  // namespace omni::train
