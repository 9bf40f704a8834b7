#include <algorithm>

#include "engine/around/adapt_tangents.h"

namespace omni {

TangentState::TangentState(const ModelConfig& config, int64_t directions)
    : config_(config),
      directions_(directions),
      pdr_(static_cast<size_t>(config.layers)),
      keys_(pdr_.size()),
      values_(pdr_.size()) {
  for (int64_t l = 0; l < config.layers; ++l) {
    const auto at = static_cast<size_t>(l);
    if (config.IsAttention(l)) {
      keys_[at].resize(static_cast<size_t>(directions * config.kv_heads * config.window * config.head_dim()));
      values_[at].resize(keys_[at].size());
    } else {
      pdr_[at].resize(static_cast<size_t>(directions * config.d * config.r));
    }
  }
}

void TangentState::Reset() {
  for (auto* part : {&pdr_, &keys_, &values_}) {
    for (std::vector<float>& layer : *part) std::ranges::fill(layer, 0.0f);
  }
}

int64_t TangentState::bytes() const {
  int64_t floats = 0;
  for (const auto* part : {&pdr_, &keys_, &values_}) {
    for (const std::vector<float>& layer : *part) floats += std::ssize(layer);
  }
  return floats * static_cast<int64_t>(sizeof(float));
}

float* TangentState::pdr(LayerId layer, int64_t direction) {
  return pdr_[layer.index()].data() + direction * config_.d * config_.r;
}
float* TangentState::keys(LayerId layer, int64_t direction) {
  return keys_[layer.index()].data() + direction * config_.kv_heads * config_.window * config_.head_dim();
}
float* TangentState::values(LayerId layer, int64_t direction) {
  return values_[layer.index()].data() + direction * config_.kv_heads * config_.window * config_.head_dim();
}

}  // namespace omni
