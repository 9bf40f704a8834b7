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

}  // namespace omni::train
