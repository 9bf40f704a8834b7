#include "engine/train/optimizer.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "engine/train/cpu_ops.h"

namespace omni::train {

double AdamWStep(const std::vector<Param*>& params, int64_t step, const AdamWSettings& s, bool shared_start) {
  constexpr int64_t kBlock = 1 << 16;
  struct Block {
    Param* p;
    int64_t first, count;
  };
  std::vector<Block> blocks;
  for (Param* p : params) {
    int64_t n = p->w.numel();
    if (shared_start && p->coding == Coding::kTernary) n /= p->groups();
    for (int64_t i = 0; i < n; i += kBlock) blocks.push_back({p, i, std::min(kBlock, n - i)});
  }
  std::vector<double> squares(blocks.size());
  at::parallel_for(0, static_cast<int64_t>(blocks.size()), 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const Block& k = blocks[static_cast<size_t>(i)];
      squares[static_cast<size_t>(i)] = Ops().sum_squares(k.p->grad.data_ptr<float>() + k.first, k.count);
    }
  });
  // Routers (uncoded matrices) have gradients of another size: they neither count nor are clipped; AdamW sets their step.
  double total = 0;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (!blocks[i].p->is_router()) total += squares[i];
  }
  const double norm = std::sqrt(total);
  const auto scale = static_cast<float>(s.clip > 0 && norm > s.clip ? s.clip / norm : 1.0);
  const auto correction1 =
      static_cast<float>(1 - std::pow(static_cast<double>(s.beta1), static_cast<double>(step + 1)));
  const auto correction2 =
      static_cast<float>(1 - std::pow(static_cast<double>(s.beta2), static_cast<double>(step + 1)));
  at::parallel_for(0, static_cast<int64_t>(blocks.size()), 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const Block& k = blocks[static_cast<size_t>(i)];
      Ops().adamw(k.p->w.data_ptr<float>() + k.first, k.p->m.data_ptr<float>() + k.first,
                  k.p->v.data_ptr<float>() + k.first, k.p->grad.data_ptr<float>() + k.first, k.count, s.lr,
                  s.beta1, s.beta2, s.eps, k.p->decay ? s.weight_decay : 0.0f, correction1, correction2,
                  k.p->is_router() ? 1.0f : scale);
    }
  });
  return norm;
}

}  // namespace omni::train
