#include "cluster/latency.h"

#include <algorithm>
#include <cmath>

namespace omni {
namespace {

constexpr double kStep = 1.2, kFirst = 1000;  // nanoseconds

}  // namespace

void LatencyHistogram::Add(std::chrono::nanoseconds time) {
  const double steps = std::log(std::max(1.0, static_cast<double>(time.count()) / kFirst)) / std::log(kStep);
  ++steps_[std::min<size_t>(static_cast<size_t>(steps), kSteps - 1)];
  ++count_;
  if (++total_ < kMemory) return;
  total_ = 0;
  for (int32_t& n : steps_) total_ += n /= 2;
}

std::chrono::nanoseconds LatencyHistogram::Quantile(double share) const {
  if (total_ == 0) return std::chrono::nanoseconds(0);
  const auto wanted = static_cast<int64_t>(std::ceil(share * static_cast<double>(total_)));
  int64_t seen = 0;
  for (size_t i = 0; i < kSteps; ++i) {
    seen += steps_[i];
    if (seen >= std::max<int64_t>(wanted, 1))
      return std::chrono::nanoseconds(static_cast<int64_t>(kFirst * std::pow(kStep, i + 1)));
  }
  return std::chrono::nanoseconds(static_cast<int64_t>(kFirst * std::pow(kStep, kSteps)));
}

}  // namespace omni
