#include "engine/train/carry.h"

namespace omni::train {

Carry Carry::Make(const ModelConfig& config, int64_t batch, int64_t memory) {
  Carry c;
  for (int64_t l = 0; l < config.layers; ++l) {
    if (config.IsAttention(l)) {
      c.keys.push_back(torch::zeros({batch, config.kv_heads, memory, config.head_dim()}));
      c.values.push_back(torch::zeros({batch, config.kv_heads, memory, config.head_dim()}));
    } else {
      c.pdr.push_back(torch::zeros({batch, config.r, config.d}));
      if (config.has_slow_state()) c.slow.push_back(torch::zeros({batch, config.d}));
    }
  }
  c.valid.assign(static_cast<size_t>(batch), 0);
  return c;
}

void Carry::ResetRow(int64_t row) {
  for (auto& s : pdr) s[row].zero_();
  for (auto& s : slow) s[row].zero_();
  valid[static_cast<size_t>(row)] = 0;
}

}  // namespace omni::train
