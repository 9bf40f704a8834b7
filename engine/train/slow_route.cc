#include "engine/train/slow_route.h"

#include <algorithm>

#include "engine/train/autograd.h"
#include "kernels/op.h"

namespace omni::train {

Tensor SlowRows(const Tensor& h, float rate, int64_t batch, Tensor& u) {
  const int64_t n = h.size(0), d = h.size(1), tokens = n / batch;
  Tensor before = torch::empty({n, d});
  at::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      float* state = F(u) + b * d;
      for (int64_t row = b * tokens; row < (b + 1) * tokens; ++row) {
        std::copy_n(state, d, F(before) + row * d);
        kernels::ActiveOps().slow_step(state, F(h) + row * d, rate, d);
      }
    }
  });
  return before;
}

}  // namespace omni::train
