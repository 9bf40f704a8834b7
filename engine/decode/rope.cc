#include "engine/decode/rope.h"

#include <cmath>

namespace omni {
namespace {

constexpr double kLn2 = 0.693147180559945309417232121458;

// 2 atanh((m - 1) / (m + 1)) by its series, m in [0.5, 1): |t| <= 1/3, so 3^-49 ends it below double's
// precision.
double Log(double x) {
  int exponent;
  const double m = std::frexp(x, &exponent);
  const double t = (m - 1) / (m + 1), t2 = t * t;
  double sum = 0;
  for (int k = 49; k >= 1; k -= 2) sum = sum * t2 + 1.0 / k;
  return exponent * kLn2 + 2 * t * sum;
}

// 2^n * e^r with |r| <= ln2 / 2: 20 terms of Taylor's series end below double's precision.
double Exp(double x) {
  const double n = std::floor(x / kLn2 + 0.5);
  const double r = x - n * kLn2;
  double sum = 1;
  for (int k = 20; k >= 1; --k) sum = 1 + r * sum / k;
  return std::ldexp(sum, static_cast<int>(n));
}

// pi/2 in three parts of 29, 29 and 53 bits: the products of the first two with n < 2^24 are exact.
constexpr double kHalfPi1 = 0x1.921fb54p0, kHalfPi2 = 0x1.10b4611p-30, kHalfPi3 = 0x1.4c4c6628b80dcp-59;

// Taylor's series to r^21 and r^20; |r| <= pi/4 needs no more. One reciprocal per power, in ascending order.
constexpr double kSin[] = {1.0 / (2 * 3),   1.0 / (4 * 5),   1.0 / (6 * 7),   1.0 / (8 * 9),
                           1.0 / (10 * 11), 1.0 / (12 * 13), 1.0 / (14 * 15), 1.0 / (16 * 17),
                           1.0 / (18 * 19), 1.0 / (20 * 21)};
constexpr double kCos[] = {1.0 / (1 * 2),   1.0 / (3 * 4),   1.0 / (5 * 6),   1.0 / (7 * 8),
                           1.0 / (9 * 10),  1.0 / (11 * 12), 1.0 / (13 * 14), 1.0 / (15 * 16),
                           1.0 / (17 * 18), 1.0 / (19 * 20)};

void SinCos(double angle, double* sin, double* cos) {
  const double n = std::floor(angle / (kHalfPi1 + kHalfPi2) + 0.5);
  const double r = ((angle - n * kHalfPi1) - n * kHalfPi2) - n * kHalfPi3, r2 = r * r;
  double s = 1, c = 1;
  for (int k = 9; k >= 0; --k) {
    s = 1 - r2 * kSin[k] * s;
    c = 1 - r2 * kCos[k] * c;
  }
  s *= r;
  switch (static_cast<int64_t>(n) & 3) {
    case 0:
      *sin = s, *cos = c;
      break;
    case 1:
      *sin = c, *cos = -s;
      break;
    case 2:
      *sin = -s, *cos = -c;
      break;
    default:
      *sin = -c, *cos = s;
      break;
  }
}

}  // namespace

RopeAngles::RopeAngles(double theta, int64_t head_dim) {
  const double log_theta = Log(theta);
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    frequency_.push_back(Exp(-2.0 * static_cast<double>(i) * log_theta / static_cast<double>(head_dim)));
  }
}

void RopeAngles::At(int64_t position, float* cos, float* sin) const {
  for (size_t i = 0; i < frequency_.size(); ++i) {
    double s, c;
    SinCos(static_cast<double>(position) * frequency_[i], &s, &c);
    cos[i] = static_cast<float>(c);
    sin[i] = static_cast<float>(s);
  }
}

}  // namespace omni
