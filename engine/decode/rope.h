// Angles of the rotary position embedding.
#pragma once

#include <cstdint>
#include <vector>

namespace omni {

// cos and sin of position * theta^(-2i/h), i = 0 .. h/2 - 1, in double by fixed sequences of + - x / (no
// libm, so the same on every machine), rounded to float at the end. The angle's relative error is a few
// 1e-16.
class RopeAngles {
 public:
  RopeAngles(double theta, int64_t head_dim);
  int64_t half() const { return static_cast<int64_t>(frequency_.size()); }
  void At(int64_t position, float* cos, float* sin) const;  // half() floats each

 private:
  std::vector<double> frequency_;
};

}  // namespace omni
