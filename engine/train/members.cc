#include "engine/train/members.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

namespace omni::train {
namespace {

class Random {  // splitmix64
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Bits() {
    state_ += 0x9e3779b97f4a7c15ULL;
    uint64_t x = state_;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
  }
  uint64_t Below(uint64_t n) { return Bits() % n; }

 private:
  uint64_t state_;
};

constexpr size_t kFeatures = 64;
using Feature = std::array<double, kFeatures>;

double Dot(const Feature& a, const Feature& b) {
  double sum = 0;
  for (size_t i = 0; i < kFeatures; ++i) sum += a[i] * b[i];
  return sum;
}

void Normalize(Feature* x) {
  const double norm = std::sqrt(Dot(*x, *x));
  if (norm == 0) return;
  for (double& value : *x) value /= norm;
}

// What follows each token: how much more often than by chance (Hellinger's root of the share, less that of
// the whole text), by a random sign of every follower in each dimension.
std::vector<Feature> Features(const std::vector<int64_t>& counts, const std::vector<Follower>& followers,
                              uint64_t key) {
  std::vector<uint64_t> signs;
  Random random(key);
  for (size_t i = 0; i < counts.size(); ++i) signs.push_back(random.Bits());
  std::vector<double> after(counts.size(), 0), before(counts.size(), 0);
  double all = 0;
  for (const Follower& f : followers) {
    const auto count = static_cast<double>(f.count);
    after[static_cast<size_t>(f.token)] += count;
    before[static_cast<size_t>(f.next)] += count;
    all += count;
  }
  const auto add = [&](size_t next, double value, Feature* x) {
    for (size_t i = 0; i < kFeatures; ++i) (*x)[i] += (signs[next] >> i & 1) != 0 ? value : -value;
  };
  Feature usual{};
  for (size_t next = 0; next < counts.size(); ++next) {
    if (before[next] > 0) add(next, std::sqrt(before[next] / all), &usual);
  }
  std::vector<Feature> features(counts.size(), Feature{});
  for (const Follower& f : followers) {
    const auto token = static_cast<size_t>(f.token);
    add(static_cast<size_t>(f.next), std::sqrt(static_cast<double>(f.count) / after[token]),
        &features[token]);
  }
  for (size_t token = 0; token < counts.size(); ++token) {
    if (after[token] == 0) continue;
    for (size_t i = 0; i < kFeatures; ++i) features[token][i] -= usual[i];
    Normalize(&features[token]);
  }
  return features;
}

}  // namespace

std::vector<uint8_t> DealMembers(const std::vector<int64_t>& counts, int64_t members, uint64_t key) {
  std::vector<size_t> order(counts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return counts[a] > counts[b]; });
  // In strictly falling order every key would put the same tokens together.
  Random random(key);
  const auto block = static_cast<size_t>(4 * members);
  for (size_t first = 0; first < order.size(); first += block) {
    for (size_t left = std::min(block, order.size() - first); left > 1; --left)
      std::swap(order[first + left - 1], order[first + random.Below(left)]);
  }
  std::vector<int64_t> load(static_cast<size_t>(members), 0);
  std::vector<uint8_t> table(counts.size());
  for (size_t token : order) {
    const auto least = std::min_element(load.begin(), load.end());
    table[token] = static_cast<uint8_t>(least - load.begin());
    *least += counts[token] + 1;  // those that do not occur are shared out too
  }
  return table;
}

std::vector<Follower> CountFollowers(const std::vector<int32_t>& text, int64_t most) {
  const size_t pairs = text.empty() ? 0 : text.size() - 1;
  const size_t step = std::max<size_t>(1, pairs / static_cast<size_t>(std::max<int64_t>(1, most)));
  std::vector<uint64_t> seen;
  for (size_t i = 0; i < pairs; i += step)
    seen.push_back(static_cast<uint64_t>(text[i]) << 32 | static_cast<uint32_t>(text[i + 1]));
  std::sort(seen.begin(), seen.end());
  std::vector<Follower> followers;
  for (size_t i = 0; i < seen.size(); ++i) {
    if (i == 0 || seen[i] != seen[i - 1])
      followers.push_back({static_cast<int32_t>(seen[i] >> 32), static_cast<int32_t>(seen[i]), 0});
    ++followers.back().count;
  }
  return followers;
}

std::vector<uint8_t> DealSimilarMembers(const std::vector<int64_t>& counts,
                                        const std::vector<Follower>& followers, int64_t members,
                                        uint64_t key) {
  constexpr int kRounds = 12;
  const auto n = static_cast<size_t>(members);
  const std::vector<Feature> features = Features(counts, followers, key);
  std::vector<size_t> order(counts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return counts[a] > counts[b]; });
  int64_t all = 0;
  for (int64_t count : counts) all += count + 1;
  const int64_t most = all / members + all / members / 100 + 1;
  // Centres begin at frequent tokens.
  Random random(key ^ 0x5851f42d4c957f2dULL);
  std::vector<Feature> centres(n);
  std::vector<size_t> starts(order.begin(),
                             order.begin() + static_cast<int64_t>(std::min(order.size(), 8 * n)));
  for (size_t m = 0; m < n; ++m) {
    std::swap(starts[m % starts.size()],
              starts[random.Below(starts.size() - m % starts.size()) + m % starts.size()]);
    centres[m] = features[starts[m % starts.size()]];
  }
  std::vector<uint8_t> table(counts.size());
  for (int round = 0; round < kRounds; ++round) {
    std::vector<int64_t> load(n, 0);
    for (size_t token : order) {
      const auto least = static_cast<size_t>(std::min_element(load.begin(), load.end()) - load.begin());
      size_t best = least;
      double likeness = -2;
      for (size_t m = 0; m < n; ++m) {
        const double like = Dot(features[token], centres[m]);
        if (load[m] + counts[token] + 1 <= most && like > likeness) best = m, likeness = like;
      }
      table[token] = static_cast<uint8_t>(best);
      load[best] += counts[token] + 1;
    }
    std::fill(centres.begin(), centres.end(), Feature{});
    for (size_t token = 0; token < counts.size(); ++token) {
      const double weight = std::sqrt(static_cast<double>(counts[token]));
      for (size_t i = 0; i < kFeatures; ++i) centres[table[token]][i] += weight * features[token][i];
    }
    for (Feature& centre : centres) Normalize(&centre);
  }
  return table;
}

}  // namespace omni::train
