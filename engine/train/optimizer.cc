#include "engine/train/optimizer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

#include "engine/train/cpu_ops.h"

namespace omni::train {
namespace {

using torch::Tensor;

int64_t LiveGroups(const Param& p, bool shared_start) {
  return shared_start && p.coding == Coding::kTernary ? 1 : p.groups();
}

void MuonStep(const std::vector<Param*>& params, const OptimizerSettings& s, bool shared_start, float scale) {
  struct Matrix {
    Param* p;
    int64_t group, row, rows;
  };
  std::vector<Matrix> matrices;
  for (Param* p : params) {
    for (int64_t g = 0; g < LiveGroups(*p, shared_start); ++g) {
      int64_t row = 0;
      for (int64_t rows : p->stacked) {
        matrices.push_back({p, g, row, rows});
        row += rows;
      }
    }
  }
  std::stable_sort(matrices.begin(), matrices.end(), [](const Matrix& a, const Matrix& b) {
    return a.rows * a.p->cols() > b.rows * b.p->cols();
  });
  std::atomic<size_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
    torch::NoGradGuard no_grad;
    for (int64_t t = begin; t < end; ++t) {
      for (size_t i = next++; i < matrices.size(); i = next++) {
        const Matrix& x = matrices[i];
        const auto of = [&](const Tensor& whole) { return whole[x.group].narrow(0, x.row, x.rows); };
        Tensor w = of(x.p->w), m = of(x.p->m);
        const Tensor g = of(x.p->grad) * scale;
        m.lerp_(g, 1 - s.momentum);
        const Tensor update = Orthogonalized(g.lerp(m, s.momentum));
        const auto size = static_cast<double>(std::max(x.rows, x.p->cols()));
        w.mul_(1 - s.lr * (x.p->decay ? s.weight_decay : 0.0f)).add_(update, -s.lr * 0.2 * std::sqrt(size));
      }
    }
  });
}

}  // namespace

Tensor Orthogonalized(const Tensor& x) {
  constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;  // Newton-Schulz of degree five, steep at zero
  const bool tall = x.size(0) > x.size(1);
  Tensor y = (tall ? x.t() : x) / x.norm().clamp_min(1e-30);
  for (int i = 0; i < 5; ++i) {
    const Tensor a = torch::mm(y, y.t());
    y = torch::addmm(y, torch::addmm(a, a, a, kB, kC), y, kA, 1.0);
  }
  return tall ? y.t() : y;
}

double OptimizerStep(const std::vector<Param*>& params, int64_t step, const OptimizerSettings& s,
                     bool shared_start) {
  constexpr int64_t kBlock = 1 << 16;
  const bool muon = s.matrices == MatrixRule::kMuon;
  struct Block {
    Param* p;
    int64_t first, count;
  };
  std::vector<Block> blocks;
  for (Param* p : params) {
    const int64_t n = p->w.numel() / p->groups() * LiveGroups(*p, shared_start);
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
  if (muon) {
    MuonStep(params, s, shared_start, scale);
    std::erase_if(blocks, [](const Block& b) { return !b.p->stacked.empty(); });
  }
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
