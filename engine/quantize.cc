#include "engine/quantize.h"

#include <algorithm>
#include <cmath>

namespace omni {

float Ternarize(const float* w, int64_t n, int64_t stride, int8_t* trits) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::fabs(w[i * stride]);
  const float mean = n > 0 ? static_cast<float>(sum / static_cast<double>(n)) : 0.0f;
  const float half = 0.5f * mean;
  for (int64_t i = 0; i < n; ++i) {
    const float value = w[i * stride];
    trits[i] = static_cast<int8_t>((value > half) - (value < -half));
  }
  return mean;
}

float TwoBitLevels(const float* w, int64_t n, int8_t* levels) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(w[i]) * w[i];
  const float s = n > 0 ? static_cast<float>(std::sqrt(sum / static_cast<double>(n))) : 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    levels[i] = w[i] < 0 ? (w[i] < -s ? -3 : -1) : (w[i] < s ? 1 : 3);
  }
  return s;
}

float Int8Row(const float* w, int64_t n, int8_t* q) {
  float max = 0;
  for (int64_t i = 0; i < n; ++i) max = std::max(max, std::fabs(w[i]));
  const float s = max / 127.0f;
  for (int64_t i = 0; i < n; ++i) q[i] = s > 0 ? static_cast<int8_t>(std::nearbyint(w[i] / s)) : 0;
  return s;
}

}  // namespace omni
