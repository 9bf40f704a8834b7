// One trained tensor with its gradient, moments and quantised form.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "engine/train/coding.h"

namespace omni::train {

struct Param {
  std::string name;
  torch::Tensor
      w;  // float32; [groups, rows, cols] for matrices (groups: regions or experts, else 1), [n] otherwise
  torch::Tensor grad;  // same shape, accumulated by the layers
  torch::Tensor m, v;  // AdamW's moments; m is Muon's momentum where that updates w
  Coding coding = Coding::kNone;
  bool decay = false;  // weight decay applies
  // Whether the groups of w differ. Until they do the first stands for all, and it alone is kept up to date.
  bool parted = true;
  // Share of the learning rate that each group is updated with; empty: all of it.
  std::vector<float> rates;
  // Rows of the matrices that are stacked in w (q, k, v ...), for an optimiser that looks at whole matrices;
  // empty: it is left to AdamW.
  std::vector<int64_t> stacked;

  // Per group, refreshed by Quantize(): bf16 codes [rows, cols] (bit patterns), scales [rows] and the two
  // packed forms (x W^T and x W).
  torch::Tensor codes, scale, packed_t, packed;

  int64_t groups() const { return w.dim() == 3 ? w.size(0) : 1; }
  int64_t live_groups() const { return parted ? groups() : 1; }
  int64_t rows() const { return w.dim() == 3 ? w.size(1) : 1; }
  int64_t cols() const { return w.dim() == 3 ? w.size(2) : w.size(0); }

  float rate(int64_t group) const { return rates.empty() ? 1.0f : rates[static_cast<size_t>(group)]; }
  bool is_router() const { return coding == Coding::kNone && w.dim() == 3; }

  const uint16_t* group_codes(int64_t g) const;
  const float* group_scale(int64_t g) const;
  const uint32_t* group_packed_t(int64_t g) const;
  const uint32_t* group_packed(int64_t g) const;
  float* group_grad(int64_t g) { return grad.data_ptr<float>() + g * rows() * cols(); }

  // Codes and packs of the live groups from w, on all threads.
  void Quantize();
};

}  // namespace omni::train
