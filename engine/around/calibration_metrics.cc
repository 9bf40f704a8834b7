#include "engine/around/calibration_metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/around/distribution.h"

namespace omni {

TokenScore ScoreDistribution(std::span<const float> p, TokenId target) {
  TokenScore score;
  const auto likeliest = static_cast<size_t>(ArgMax(p));
  score.confidence = score.ranking = std::min(1.0f, p[likeliest]);
  score.right = likeliest == target.index();
  const double of_target = static_cast<double>(p[target.index()]);
  score.nats = -std::log(std::max(of_target, static_cast<double>(std::numeric_limits<float>::min())));
  double squares = 0;
  for (const float value : p) {
    squares += static_cast<double>(value) * static_cast<double>(value);
    const auto bin = static_cast<size_t>(value * static_cast<float>(kReliabilityBins));
    score.gap[std::min(bin, kReliabilityBins - 1)] += value;
  }
  score.brier = squares - 2 * of_target + 1;
  const auto bin = static_cast<size_t>(p[target.index()] * static_cast<float>(kReliabilityBins));
  score.gap[std::min(bin, kReliabilityBins - 1)] -= 1.0f;
  return score;
}

void CalibrationMetrics::Add(const TokenScore& score) {
  kept_.push_back({score.confidence, score.ranking, score.right});
  nats_ += score.nats;
  brier_ += score.brier;
  for (size_t b = 0; b < kReliabilityBins; ++b) gap_[b] += static_cast<double>(score.gap[b]);
}

CalibrationReport CalibrationMetrics::Report() const {
  CalibrationReport report;
  const size_t n = kept_.size();
  report.tokens = static_cast<int64_t>(n);
  if (n == 0) return report;
  const auto all = static_cast<double>(n);
  report.nats_per_token = nats_ / all;
  report.brier = brier_ / all;
  for (const double gap : gap_) report.full_ece += std::fabs(gap) / all;

  std::vector<Kept> sorted = kept_;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Kept& a, const Kept& b) { return a.confidence < b.confidence; });
  for (size_t b = 0, next = 0; b < kReliabilityBins; ++b) {
    const size_t end = n * (b + 1) / kReliabilityBins;
    if (next == end) continue;
    ReliabilityBin bin;
    bin.low = static_cast<double>(sorted[next].confidence);
    bin.high = static_cast<double>(sorted[end - 1].confidence);
    bin.tokens = static_cast<int64_t>(end - next);
    for (; next < end; ++next) {
      bin.confidence += static_cast<double>(sorted[next].confidence);
      bin.accuracy += sorted[next].right ? 1.0 : 0.0;
    }
    report.accuracy += bin.accuracy / all;
    bin.confidence /= static_cast<double>(bin.tokens);
    bin.accuracy /= static_cast<double>(bin.tokens);
    report.ece += static_cast<double>(bin.tokens) / all * std::fabs(bin.accuracy - bin.confidence);
    report.reliability.push_back(bin);
  }

  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Kept& a, const Kept& b) { return a.ranking > b.ranking; });
  double wrong = 0;
  for (size_t begin = 0; begin < n;) {
    size_t end = begin;
    double of_equals = 0;
    for (; end < n && sorted[end].ranking == sorted[begin].ranking; ++end)
      of_equals += sorted[end].right ? 0.0 : 1.0;
    const double each = of_equals / static_cast<double>(end - begin);
    for (; begin < end; ++begin) {
      wrong += each;
      report.aurc += wrong / static_cast<double>(begin + 1) / all;
    }
  }
  return report;
}

}  // namespace omni
