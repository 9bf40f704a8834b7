// What an adapter makes of the last hidden state.
#pragma once

#include <cstdint>

#include "engine/decode/row_adapter.h"
#include "kernels/op.h"

namespace omni {

// basis y, [rank]: fixed-shape dot products.
void HeadInner(const HeadChange& head, const kernels::Ops& ops, int64_t d, const float* y, float* inner);
// y (1 + gain) + map (basis y), in place. Any thread.
void ChangeHidden(const HeadChange& head, const kernels::Ops& ops, int64_t d, float* y);

}  // namespace omni
