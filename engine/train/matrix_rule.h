// What updates matrices.
#pragma once

namespace omni::train {

enum class MatrixRule {
  kAdamW,
  // Nesterov momentum, orthogonalised by five Newton-Schulz steps (K. Jordan et al., "Muon", 2024), scaled by
  // 0.2 sqrt(max(rows, cols)) so that AdamW's learning rate and weight decay fit (J. Liu et al.,
  // arXiv:2502.16982).
  kMuon,
};

// The Newton-Schulz step of degree five, steep at zero: y <- a y + (b y y^T + c (y y^T)^2) y.
struct NewtonSchulz {
  static constexpr int kSteps = 5;
  static constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;
};

}  // namespace omni::train
