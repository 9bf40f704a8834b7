#include "engine/around/memory_capacity.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "engine/base/splitmix.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;
constexpr uint64_t kKeySeed = 11, kValueSeed = 13;
constexpr double kFlipped = 0.1;

double Micros(Clock::duration t) { return std::chrono::duration<double, std::micro>(t).count(); }

double Quantile(std::vector<double>& sorted, double q) {
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(q * static_cast<double>(sorted.size())))];
}

// The share that came back; the times, ascending.
double Ask(const MemoryBanks& memory, int64_t items, int64_t asked, double flipped,
           std::vector<double>& times) {
  int64_t right = 0;
  times.clear();
  for (int64_t i = 0; i < asked; ++i) {
    const auto item = static_cast<uint64_t>(i * items / asked);
    HyperVector key = Codeword(kKeySeed, item);
    if (flipped > 0) key = WithFlippedBits(key, flipped, item);
    const auto start = Clock::now();
    const std::optional<Recalled> got = memory.Ask(key);
    times.push_back(Micros(Clock::now() - start));
    right += got.has_value() && got->value == CounterRandom(kValueSeed, item);
  }
  std::sort(times.begin(), times.end());
  return static_cast<double>(right) / static_cast<double>(asked);
}

}  // namespace

std::vector<CapacityPoint> MeasureCapacity(const std::vector<int64_t>& items, int64_t asked,
                                           const MemoryShape& shape) {
  std::vector<CapacityPoint> points;
  MemoryBanks memory(shape);
  std::vector<double> times;
  for (int64_t target : items) {
    CapacityPoint point;
    point.items = target;
    const int64_t before = memory.items();
    const auto start = Clock::now();
    for (auto i = static_cast<uint64_t>(before); i < static_cast<uint64_t>(target); ++i)
      memory.Add(Codeword(kKeySeed, i), CounterRandom(kValueSeed, i));
    point.add_us = Micros(Clock::now() - start) / static_cast<double>(std::max<int64_t>(1, target - before));
    const int64_t questions = std::min(asked, target);
    Ask(memory, target, questions, 0, times);  // majorities are made when they are first asked for
    point.load = static_cast<double>(target) / static_cast<double>(shape.banks);
    point.exact = Ask(memory, target, questions, 0, times);
    point.lookup_median_us = Quantile(times, 0.5);
    point.lookup_p99_us = Quantile(times, 0.99);
    point.noisy = Ask(memory, target, questions, kFlipped, times);
    point.noisy_median_us = Quantile(times, 0.5);
    point.exact_expected = ExpectedRecall(point.load, 0, shape);
    point.noisy_expected = ExpectedRecall(point.load, kFlipped, shape);
    point.bytes = memory.bytes();
    points.push_back(point);
  }
  return points;
}

}  // namespace omni
