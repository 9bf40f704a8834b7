#include "engine/decode/lanes.h"

#include <algorithm>

namespace omni {
namespace {

// Of a lane: enough rows to share the unpacking of the weights.
constexpr int64_t kRows = 8, kLeastRows = 4;
// Each thread reads all weights of a layer: they stay in a core's own cache.
constexpr int64_t kMostLayerBytes = 256 << 10;

// Of the matrices that all tokens share, packed, in the larger kind of layer.
int64_t SharedBytesOfLayer(const ModelConfig& c) {
  const int64_t kv = c.kv_heads * c.head_dim();
  const int64_t recurrent = 3 * c.d * c.d + 2 * c.d * c.r;
  const int64_t attention = 2 * c.d * c.d + 2 * c.d * kv + 3 * c.d * c.f;
  return std::max(recurrent, attention) / 4;
}

}  // namespace

void Lanes::Cut() {
  used_ = 0;
  Pass& pass = whole_.pass;
  const int64_t rows = pass.rows, threads = pass.pool.threads();
  if (threads == 1 || rows < kLeastRows * threads || SharedBytesOfLayer(pass.config) > kMostLayerBytes)
    return;
  const int64_t wanted = std::max(threads, rows / kRows / threads * threads);
  size_t next = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    if (lanes_.size() <= static_cast<size_t>(i)) {
      lanes_.push_back(std::make_unique<Lane>(pass.weights, alone_, pass.ops));
    }
    Lane& lane = *lanes_[static_cast<size_t>(i)];
    lane.pass.segments.clear();
    const int64_t end = rows * (i + 1) / wanted;
    while (next < pass.segments.size()) {
      const size_t last = EndOfState(pass.segments, next) - 1;
      const int64_t first = pass.segments[next].first_row;
      if (first + (pass.segments[last].first_row + pass.segments[last].count - first) / 2 >= end) break;
      if (lane.pass.segments.empty()) lane.first_row = first;
      for (; next <= last; ++next) {
        lane.pass.segments.push_back(pass.segments[next]);
        lane.pass.segments.back().first_row -= lane.first_row;
      }
    }
    if (lane.pass.segments.empty()) return;
    const Segment& last = lane.pass.segments.back();
    const int64_t count = last.first_row + last.count;
    if (2 * count * wanted > 3 * rows) return;  // a long prompt, which the others would wait for
    lane.pass.View(pass, lane.first_row, count);
  }
  used_ = static_cast<size_t>(wanted);
}

void Lanes::For(absl::FunctionRef<void(Lane&)> run) {
  if (used_ == 0) {
    run(whole_);
    return;
  }
  whole_.pass.pool.Run(static_cast<int64_t>(used_), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run(*lanes_[static_cast<size_t>(i)]);
  });
}

}  // namespace omni
