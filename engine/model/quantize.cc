#include "engine/model/quantize.h"

#include <algorithm>
#include <cmath>

namespace omni {

namespace {

// The fixed summation shape: 16 partial sums, then pairwise.
template <typename Term>
double Sum16(int64_t n, Term term) {
  double part[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int64_t j = 0; j < 16; ++j) part[j] += term(i + j);
  }
  for (; i < n; ++i) part[i % 16] += term(i);
  for (int half = 8; half >= 1; half /= 2) {
    for (int j = 0; j < half; ++j) part[j] += part[j + half];
  }
  return part[0];
}

}  // namespace

float Ternarize(const float* w, int64_t n, int64_t stride, int8_t* trits) {
  const double sum = Sum16(n, [=](int64_t i) { return static_cast<double>(std::fabs(w[i * stride])); });
  const float mean = n > 0 ? static_cast<float>(sum / static_cast<double>(n)) : 0.0f;
  const float half = 0.5f * mean;
  for (int64_t i = 0; i < n; ++i) {
    const float value = w[i * stride];
    trits[i] = static_cast<int8_t>((value > half) - (value < -half));
  }
  return mean;
}

float TwoBitLevels(const float* w, int64_t n, int8_t* levels) {
  const double sum = Sum16(n, [=](int64_t i) { return static_cast<double>(w[i]) * w[i]; });
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
  // A subnormal s is rounded coarsely, and the quotient may then leave the range.
  for (int64_t i = 0; i < n; ++i) {
    q[i] = s > 0 ? static_cast<int8_t>(std::clamp(std::nearbyint(w[i] / s), -127.0f, 127.0f)) : int8_t{0};
  }
  return s;
}

}  // namespace omni
