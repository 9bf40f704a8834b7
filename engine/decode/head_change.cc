#include "engine/decode/head_change.h"

#include <algorithm>

#include "engine/decode/scratch.h"

namespace omni {

void HeadInner(const HeadChange& head, const kernels::Ops& ops, int64_t d, const float* y, float* inner) {
  if (head.basis == nullptr) {
    std::copy_n(y, head.rank, inner);
    return;
  }
  for (int64_t k = 0; k < head.rank; ++k) inner[k] = ops.dot(head.basis + k * d, y, d);
}

void ChangeHidden(const HeadChange& head, const kernels::Ops& ops, int64_t d, float* y) {
  static thread_local Scratch<float> scratch;
  float* inner = scratch.Reserve(head.rank + 1);
  if (head.map != nullptr) HeadInner(head, ops, d, y, inner);
  for (int64_t i = 0; i < d; ++i) {
    if (head.gain != nullptr) y[i] = y[i] * (1.0f + head.gain[i]);
    if (head.map != nullptr) y[i] = y[i] + ops.dot(head.map + i * head.rank, inner, head.rank);
  }
}

}  // namespace omni
