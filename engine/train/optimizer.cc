#include "engine/train/optimizer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "engine/train/cpu_ops.h"

namespace omni::train {
namespace {

using torch::Tensor;

float ClipScale(double norm, float limit) {
  return static_cast<float>(limit > 0 && norm > limit ? limit / norm : 1.0);
}

void MuonStep(const std::vector<Param*>& params, const OptimizerSettings& s, float scale) {
  struct Matrix {
    Param* p;
    int64_t group, row, rows;
  };
  std::vector<Matrix> matrices;
  for (Param* p : params) {
    for (int64_t g = 0; g < p->live_groups(); ++g) {
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
        const float lr = s.lr * x.p->rate(x.group);
        w.mul_(1 - lr * (x.p->decay ? s.weight_decay : 0.0f)).add_(update, -lr * 0.2 * std::sqrt(size));
      }
    }
  });
}

// c (+)= a b, symmetric, [m, m]: its upper half is computed, and what is below copied from it. Rows of a are
// lda apart and k long; b is packed.
void SymmetricProduct(const bf16* a, int64_t lda, int64_t m, const uint32_t* packed, int64_t k,
                      bool accumulate, float* c) {
  constexpr int64_t kRows = 32;  // as wide as a panel of b
  const int64_t pairs = (k + 1) / 2;
  for (int64_t r = 0; r < m; r += kRows) {
    Ops().gemm(a + r * lda, lda, std::min(kRows, m - r), packed + r * pairs, m - r, k, nullptr, nullptr,
               accumulate, c + r * m + r, m);
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < i; ++j) c[i * m + j] = c[j * m + i];
  }
}

}  // namespace

Tensor Orthogonalized(const Tensor& x) {
  constexpr float kA = NewtonSchulz::kA, kB = NewtonSchulz::kB, kC = NewtonSchulz::kC;
  const bool tall = x.size(0) > x.size(1);
  Tensor y = ((tall ? x.t() : x) / x.norm().clamp_min(1e-30)).contiguous();
  const CpuOps& ops = Ops();
  const int64_t m = y.size(0), n = y.size(1), even_m = (m + 1) / 2 * 2, even_n = (n + 1) / 2 * 2;
  // The products in bf16, sums in float32: the iteration corrects its own rounding.
  std::vector<bf16> y16(static_cast<size_t>(m * even_n)), square16(static_cast<size_t>(m * even_m));
  std::vector<uint32_t> packed(
      static_cast<size_t>(std::max({PackedPairs(n, m), PackedPairs(m, m), PackedPairs(m, n)})));
  std::vector<float> gram(static_cast<size_t>(m * m));
  auto* values = y.data_ptr<float>();
  for (int i = 0; i < NewtonSchulz::kSteps; ++i) {
    ops.to_bf16(values, m, n, n, nullptr, nullptr, y16.data(), even_n);
    ops.pack_transposed(y16.data(), even_n, m, n, packed.data());
    SymmetricProduct(y16.data(), even_n, m, packed.data(), n, false, gram.data());  // y y^T
    ops.to_bf16(gram.data(), m, m, m, nullptr, nullptr, square16.data(), even_m);
    ops.pack(square16.data(), even_m, m, m, packed.data());
    for (float& g : gram) g *= kB / kC;
    SymmetricProduct(square16.data(), even_m, m, packed.data(), m, true, gram.data());
    for (float& g : gram) g *= kC;  // kB y y^T + kC (y y^T)^2
    ops.to_bf16(gram.data(), m, m, m, nullptr, nullptr, square16.data(), even_m);
    ops.pack(y16.data(), even_n, m, n, packed.data());
    for (int64_t k = 0; k < m * n; ++k) values[k] *= kA;
    ops.gemm(square16.data(), even_m, m, packed.data(), n, m, nullptr, nullptr, true, values, n);
  }
  return tall ? y.t() : y;
}

double OptimizerStep(const std::vector<Param*>& params, int64_t step, const OptimizerSettings& s) {
  constexpr int64_t kBlock = 1 << 16;
  const bool muon = s.matrices == MatrixRule::kMuon;
  struct Block {
    Param* p;
    int64_t first, count;
    float lr;
  };
  std::vector<Block> blocks;
  for (Param* p : params) {
    const float lr = p->is_router() ? s.lr * s.router_lr : s.lr;
    // Groups that learn at rates of their own are blocks of their own.
    const int64_t group = p->w.numel() / p->groups(), parts = p->rates.empty() ? 1 : p->live_groups();
    const int64_t n = group * p->live_groups() / parts;
    for (int64_t g = 0; g < parts; ++g) {
      for (int64_t i = 0; i < n; i += kBlock)
        blocks.push_back({p, g * n + i, std::min(kBlock, n - i), lr * p->rate(g)});
    }
  }
  std::vector<double> squares(blocks.size());
  at::parallel_for(0, static_cast<int64_t>(blocks.size()), 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const Block& k = blocks[static_cast<size_t>(i)];
      squares[static_cast<size_t>(i)] = Ops().sum_squares(k.p->grad.data_ptr<float>() + k.first, k.count);
    }
  });
  // Routers (uncoded matrices) have gradients of another size: they are clipped by themselves.
  double total = 0, of_routers = 0;
  for (size_t i = 0; i < blocks.size(); ++i) (blocks[i].p->is_router() ? of_routers : total) += squares[i];
  const double norm = std::sqrt(total);
  const float scale = ClipScale(norm, s.clip), router_scale = ClipScale(std::sqrt(of_routers), s.router_clip);
  if (muon) {
    MuonStep(params, s, scale);
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
                  k.p->v.data_ptr<float>() + k.first, k.p->grad.data_ptr<float>() + k.first, k.count, k.lr,
                  s.beta1, s.beta2, s.eps, k.p->decay ? s.weight_decay : 0.0f, correction1, correction2,
                  k.p->is_router() ? router_scale : scale);
    }
  });
  return norm;
}

}  // namespace omni::train
