// What routers see that look at the tokens before the present one: the slow state of each expert layer.
// Internal to the decoder.
#pragma once

#include <cstdint>

#include "engine/base/ids.h"
#include "engine/decode/pass.h"

namespace omni {

// u_t = u_{t-1} + alpha (h_t - u_{t-1}), h the row that the layer's experts read before it is quantised.
class SlowRoute {
 public:
  explicit SlowRoute(Pass& pass) : pass_(pass) {}

  // Moves every segment's slow state of the layer over its rows, which pass.H holds; rows aside only see it.
  // Elementwise, so that the bytes depend neither on the threads nor on where a segment is cut.
  void Step(LayerId layer);
  // After Step: the state as it stood before the row, [d].
  const float* Before(int64_t row) const { return before_.data() + row * width_; }

 private:
  Pass& pass_;
  int64_t width_ = 0;  // d padded to 16
  Scratch<float> before_;
};

}  // namespace omni
