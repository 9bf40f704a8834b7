// How a matrix's weights are coded in products.
#pragma once

namespace omni::train {

enum class Coding { kNone, kTernary, kTwoBit, kInt8 };

}  // namespace omni::train
