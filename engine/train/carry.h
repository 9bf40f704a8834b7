// What is carried from one segment of text to the next.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "engine/model/config.h"

namespace omni::train {

// State of `batch` parallel sequences between two segments; no gradient flows through it.
struct Carry {
  std::vector<torch::Tensor> pdr;     // per PDR layer [B, r, d]
  std::vector<torch::Tensor> slow;    // per PDR layer the router's slow state [B, d]; none where it has none
  std::vector<torch::Tensor> keys;    // per attention layer [B, H_kv, M, h], rotated, rounded to fp16
  std::vector<torch::Tensor> values;  // likewise
  int64_t position = 0;               // of the next token, common to all rows (attention is relative)
  std::vector<int64_t> valid;         // per row: how many remembered positions count

  static Carry Make(const ModelConfig& config, int64_t batch, int64_t memory);
  void ResetRow(int64_t row);
};

}  // namespace omni::train
