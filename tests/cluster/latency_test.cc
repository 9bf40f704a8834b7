#include "cluster/latency.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include <gtest/gtest.h>

#include "tests/testing/random_model.h"

namespace omni {
namespace {

using std::chrono::nanoseconds;
using namespace std::chrono_literals;

// What a quantile may be where exactly this many of `times` lie at or below it: a step is a fifth.
void ExpectBrackets(const LatencyHistogram& histogram, std::vector<nanoseconds> times, double share) {
  std::sort(times.begin(), times.end());
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(times.size())));
  const nanoseconds exact = times[std::max<size_t>(rank, 1) - 1], found = histogram.Quantile(share);
  EXPECT_GE(found * 1.0001, exact * 1.0) << share;
  EXPECT_LE(found * 1.0, exact * 1.2001) << share;
}

TEST(LatencyHistogramTest, IsZeroBeforeTheFirstTime) {
  EXPECT_EQ(LatencyHistogram().Quantile(0.5), 0ns);
  EXPECT_EQ(LatencyHistogram().count(), 0);
}

TEST(LatencyHistogramTest, QuantilesBracketOneTime) {
  for (nanoseconds time : {nanoseconds(1us), nanoseconds(1500ns), nanoseconds(7ms), nanoseconds(3s)}) {
    LatencyHistogram histogram;
    histogram.Add(time);
    for (double share : {0.0, 0.5, 0.99, 1.0}) ExpectBrackets(histogram, {time}, share);
  }
}

TEST(LatencyHistogramTest, QuantilesBracketKnownDistributions) {
  testing::Random random(5);
  for (int64_t spread : {10, 1000, 1000000}) {
    LatencyHistogram histogram;
    std::vector<nanoseconds> times;
    for (int i = 0; i < 2000; ++i) {
      times.push_back(nanoseconds(1000 + 1000 * random.Below(spread)));
      histogram.Add(times.back());
    }
    EXPECT_EQ(histogram.count(), 2000);
    for (double share : {0.01, 0.25, 0.5, 0.9, 0.99, 1.0}) ExpectBrackets(histogram, times, share);
  }
}

TEST(LatencyHistogramTest, TimesBeyondItsEndsCountAsTheEnds) {
  LatencyHistogram histogram;
  histogram.Add(-5ns);
  EXPECT_GT(histogram.Quantile(1), 0ns);
  EXPECT_LE(histogram.Quantile(1), 1200ns);
  histogram.Add(24h);
  EXPECT_GE(histogram.Quantile(1), 60s);
  EXPECT_LE(histogram.Quantile(1), 100s);
}

TEST(LatencyHistogramTest, ThePastFades) {
  LatencyHistogram histogram;
  for (int i = 0; i < 2000; ++i) histogram.Add(50ms);
  EXPECT_GE(histogram.Quantile(0.5), 50ms);
  // What is faster now outweighs it soon, and after a while the past is not seen at all.
  for (int i = 0; i < 2048; ++i) histogram.Add(1ms);
  EXPECT_LE(histogram.Quantile(0.5), 2ms);
  EXPECT_GE(histogram.Quantile(0.99), 50ms);
  for (int i = 0; i < 20000; ++i) histogram.Add(1ms);
  EXPECT_LE(histogram.Quantile(0.9999), 2ms);
  EXPECT_EQ(histogram.count(), 24048);
}

}  // namespace
}  // namespace omni
