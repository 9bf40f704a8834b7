// The shared SwiGLU FFN of an attention layer, over all rows of a pass. Internal to the decoder.
#pragma once

#include "engine/decode/pass.h"
#include "engine/decode/scratch.h"
#include "engine/model/weights.h"

namespace omni {

// x += down(up(in) * silu(gate(in))), the product quantised as a row of f.
class SharedFfn {
 public:
  explicit SharedFfn(Pass& pass) : pass_(pass) {}
  void Run(const LayerWeights& layer, const QuantizedRows& in);

 private:
  Pass& pass_;
  Scratch<float> a_;
};

}  // namespace omni
