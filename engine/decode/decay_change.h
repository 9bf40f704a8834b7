// The change of a layer's decay, p += left (core (right h)), in two steps.
#pragma once

#include <cstdint>

#include "engine/decode/row_adapter.h"
#include "kernels/op.h"

namespace omni {

// inner = core (right h), [kAdapterRank]: fixed-shape dot products, then sums in ascending order.
inline void DecayInner(const LayerChange& change, const kernels::Ops& ops, const float* h, int64_t d,
                       float* inner) {
  float low[kAdapterRank];
  for (int64_t j = 0; j < kAdapterRank; ++j) low[j] = ops.dot(change.right + j * d, h, d);
  for (int64_t i = 0; i < kAdapterRank; ++i) {
    inner[i] = change.core == nullptr ? low[i] : 0.0f;
    if (change.core == nullptr) continue;
    for (int64_t j = 0; j < kAdapterRank; ++j) inner[i] += change.core[i * kAdapterRank + j] * low[j];
  }
}

// p[i] += left[i] . inner, for n rows of left.
inline void AddDecayChange(const float* left, const float* inner, int64_t n, float* p) {
  for (int64_t i = 0; i < n; ++i) {
    float sum = 0;
    for (int64_t j = 0; j < kAdapterRank; ++j) sum += left[i * kAdapterRank + j] * inner[j];
    p[i] += sum;
  }
}

}  // namespace omni
