#include "engine/train/members.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace omni::train {
namespace {

class Random {  // splitmix64
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Below(uint64_t n) {
    state_ += 0x9e3779b97f4a7c15ULL;
    uint64_t x = state_;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return (x ^ (x >> 31)) % n;
  }

 private:
  uint64_t state_;
};

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

}  // namespace omni::train
