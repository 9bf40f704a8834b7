#include "engine/decode/slow_route.h"

#include <algorithm>

namespace omni {

void SlowRoute::Step(LayerId layer) {
  constexpr int64_t kColumns = 64;  // of one piece of work
  const int64_t d = pass_.config.d;
  width_ = PadTo(d, 16);
  float* before = before_.Reserve(pass_.rows * width_);
  const int64_t pieces = PadTo(d, kColumns) / kColumns;
  pass_.pool.Run(pieces, Pass::Grain(pass_.rows * kColumns * Pass::kFloatCost),
                 [&](int64_t begin, int64_t end) {
                   const int64_t first = begin * kColumns, count = std::min(end * kColumns, d) - first;
                   for (const Segment& segment : pass_.segments) {
                     float* u = segment.state->slow(layer) + first;
                     for (int64_t row = segment.first_row; row < segment.first_row + segment.count; ++row) {
                       std::copy_n(u, count, before + row * width_ + first);
                       if (segment.aside) continue;
                       pass_.ops.slow_step(u, pass_.H(row) + first, pass_.config.slow_rate, count);
                     }
                   }
                 });
}

}  // namespace omni
