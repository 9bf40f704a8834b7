// The readable reference: one element at a time, in the order that op.h fixes. Runs on any CPU.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/op.h"
#include "kernels/variants.h"

namespace omni::kernels {
namespace {

// The fixed shape of every float sum.
class Sum {
 public:
  void Add(int64_t j, float a, float b) { part_[j % kLanes] = std::fma(a, b, part_[j % kLanes]); }
  float Total() {
    for (int64_t half = kLanes / 2; half > 0; half /= 2) {
      for (int64_t i = 0; i < half; ++i) part_[i] = part_[i] + part_[i + half];
    }
    return part_[0];
  }

 private:
  float part_[kLanes] = {};
};

void Ternary(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y, int64_t y_stride,
             int64_t group_begin, int64_t group_end) {
  for (int64_t g = group_begin; g < group_end; ++g) {
    for (int t = 0; t < n; ++t) {
      int32_t sum[kTernaryRows] = {};
      for (int64_t c = 0; c < m.num_blocks; ++c) {
        const uint8_t* block = (m.table ? m.table[c] : m.base + c * m.block_stride) + g * m.group_stride;
        const int8_t* x_block = x + t * x_stride + c * kTernaryCols;
        for (int64_t j = 0; j < kTernaryCols; ++j) {
          int32_t code = block[j];
          for (int64_t i = 0; i < kTernaryRows; ++i) {
            sum[i] += (code % 3 - 1) * x_block[j];
            code /= 3;
          }
        }
      }
      std::memcpy(y + t * y_stride + g * kTernaryRows, sum, sizeof(sum));
    }
  }
}

void TwoBit(const TwoBitMatrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y, int64_t y_stride,
            int64_t group_begin, int64_t group_end) {
  for (int64_t g = group_begin; g < group_end; ++g) {
    for (int t = 0; t < n; ++t) {
      int32_t sum[kTwoBitRows] = {};
      for (int64_t j = 0; j < m.num_blocks * 64; ++j) {
        const int32_t byte = m.base[g * m.num_blocks * 64 + j];
        for (int64_t i = 0; i < kTwoBitRows; ++i) {
          const int32_t code = (byte >> (2 * i)) & 3;
          sum[i] += (2 * code - 3) * x[t * x_stride + j];
        }
      }
      std::memcpy(y + t * y_stride + g * kTwoBitRows, sum, sizeof(sum));
    }
  }
}

void Int8(const Int8Matrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y, int64_t y_stride,
          int64_t row_begin, int64_t row_end) {
  for (int64_t i = row_begin; i < row_end; ++i) {
    for (int t = 0; t < n; ++t) {
      int32_t sum = 0;
      for (int64_t j = 0; j < m.cols_padded; ++j) sum += m.base[i * m.stride + j] * x[t * x_stride + j];
      y[t * y_stride + i] = sum;
    }
  }
}

// The clamp keeps |q| <= 127 where s is too small for a float to hold exactly.
void Quantize(const float* x, int64_t n, int64_t n_padded, int8_t* q, float* scale) {
  float largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
  const float s = largest / kInt8Max;
  *scale = s;
  for (int64_t i = 0; i < n_padded; ++i) {
    float v = 0;
    if (i < n && s > 0) {
      v = x[i] / s;
      v = v < kInt8Max ? v : kInt8Max;
      v = v > -kInt8Max ? v : -kInt8Max;
    }
    q[i] = static_cast<int8_t>(std::nearbyint(v));
  }
}

float Dot(const float* a, const float* b, int64_t n) {
  Sum sum;
  for (int64_t j = 0; j < n; ++j) sum.Add(j, a[j], b[j]);
  return sum.Total();
}

void RmsNorm(const float* x, const float* g, int64_t n, float* y) {
  const float mean = Dot(x, x, n) / static_cast<float>(n);
  const float inv = 1.0f / std::sqrt(mean + kRmsEpsilon);
  for (int64_t i = 0; i < n; ++i) y[i] = (x[i] * inv) * g[i];
}

void ScaleRows(const int32_t* acc, const float* row_scale, float x_scale, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(acc[i]) * (x_scale * row_scale[i]);
}

void Decay(const float* p, const float* b, float floor, int64_t n, float* gamma) {
  for (int64_t i = 0; i < n; ++i) {
    const float s = Sigmoid(p[i] + b[i]);
    gamma[i] = floor > s ? floor : s;
  }
}

void PdrStep(float* S, const float* gamma, const float* v, const float* k, const float* q, int64_t rows,
             int64_t r, float* out) {
  for (int64_t i = 0; i < rows; ++i) {
    float* row = S + i * r;
    for (int64_t j = 0; j < r; ++j) row[j] = gamma[i] * row[j] + v[i] * k[j];
    out[i] = Dot(row, q, r);
  }
}

void PdrRead(const float* S, const float* gamma, const float* v, const float* k, const float* q, int64_t rows,
             int64_t r, float* out) {
  for (int64_t i = 0; i < rows; ++i) {
    Sum sum;
    for (int64_t j = 0; j < r; ++j) sum.Add(j, gamma[i] * S[i * r + j] + v[i] * k[j], q[j]);
    out[i] = sum.Total();
  }
}

void Rope(float* x, const float* cos, const float* sin, int64_t h) {
  for (int64_t i = 0; i < h / 2; ++i) {
    const float a = x[i];
    const float b = x[i + h / 2];
    x[i] = a * cos[i] - b * sin[i];
    x[i + h / 2] = a * sin[i] + b * cos[i];
  }
}

void ToFp16Row(const float* x, int64_t n, uint16_t* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = ToFp16(x[i]);
}

void FromFp16Row(const uint16_t* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = FromFp16(x[i]);
}

// Adding +0 turns a maximum of -0 into +0, so that equal inputs in another order give the same byte.
float ExpSum(const float* x, int64_t n, float* e, float* max) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  largest = largest + 0.0f;
  *max = largest;
  Sum sum;
  for (int64_t i = 0; i < n; ++i) {
    e[i] = Exp(x[i] - largest);
    sum.Add(i, e[i], 1.0f);
  }
  return sum.Total();
}

void Attend(const float* q, const uint16_t* k, const uint16_t* v, int64_t h, int64_t len, float scale,
            float* scratch, float* out) {
  for (int64_t j = 0; j < len; ++j) {
    Sum score;
    for (int64_t i = 0; i < h; ++i) score.Add(i, q[i], FromFp16(k[j * h + i]));
    scratch[j] = score.Total() * scale;
  }
  float max;
  const float sum = ExpSum(scratch, len, scratch, &max);
  for (int64_t j = 0; j < len; ++j) scratch[j] = scratch[j] / sum;
  for (int64_t i = 0; i < h; ++i) {
    Sum mix;
    for (int64_t j = 0; j < len; ++j) mix.Add(j, scratch[j], FromFp16(v[j * h + i]));
    out[i] = mix.Total();
  }
}

void Swiglu(const int32_t* gate, const int32_t* up, int64_t stride, const float* gate_scale,
            const float* up_scale, float x_scale, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = static_cast<float>(gate[i * stride]) * (x_scale * gate_scale[i]);
    const float u = static_cast<float>(up[i * stride]) * (x_scale * up_scale[i]);
    out[i] = u * Silu(g);
  }
}

void Add(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] + y[i];
}

void SlowStep(float* u, const float* h, float rate, int64_t n) {
  for (int64_t i = 0; i < n; ++i) u[i] = std::fma(rate, h[i] - u[i], u[i]);
}

int64_t DifferingBits(const uint8_t* a, const uint8_t* b, int64_t bytes) {
  int64_t bits = 0;
  for (int64_t i = 0; i < bytes; ++i) bits += __builtin_popcount(static_cast<unsigned>(a[i] ^ b[i]));
  return bits;
}

void LogOf(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = Log(x[i]);
}

float MLogM(const float* p, const float* q, int64_t n) {
  Sum sum;
  for (int64_t i = 0; i < n; ++i) {
    const float m = 0.5f * (p[i] + q[i]);
    sum.Add(i, m * Log(m), 1.0f);
  }
  return sum.Total();
}

}  // namespace

constinit const Ops kScalarOps = {
    .isa = Isa::kScalar,
    .ternary = Ternary,
    .two_bit = TwoBit,
    .int8 = Int8,
    .quantize = Quantize,
    .rms_norm = RmsNorm,
    .dot = Dot,
    .scale_rows = ScaleRows,
    .decay = Decay,
    .pdr_step = PdrStep,
    .pdr_read = PdrRead,
    .rope = Rope,
    .to_fp16 = ToFp16Row,
    .from_fp16 = FromFp16Row,
    .attend = Attend,
    .swiglu = Swiglu,
    .add = Add,
    .slow_step = SlowStep,
    .differing_bits = DifferingBits,
    .exp_sum = ExpSum,
    .log = LogOf,
    .m_log_m = MLogM,
};

// Two powers of two instead of one: 2^n alone would leave float's range at both ends. The first product is
// exact.
float Exp(float x) {
  x = kExpMax < x ? kExpMax : x;
  x = kExpMin > x ? kExpMin : x;
  const float t = std::fma(x, kLog2E, kRoundMagic);
  const float n = t - kRoundMagic;
  float r = std::fma(n, -kLn2High, x);
  r = std::fma(n, -kLn2Low, r);
  float p = kExpPoly[4];
  for (int i = 3; i >= 0; --i) p = std::fma(p, r, kExpPoly[i]);
  p = std::fma(p, r * r, r);
  p = 1.0f + p;
  if (std::isnan(p)) return p;
  const int32_t exponent = std::bit_cast<int32_t>(t) - std::bit_cast<int32_t>(kRoundMagic);
  const int32_t half = exponent >> 1;
  const auto power = [](int32_t e) { return std::bit_cast<float>((e + 127) << 23); };
  return (p * power(half)) * power(exponent - half);
}

float Log(float x) {
  x = kLogMin > x ? kLogMin : x;
  const int32_t offset = std::bit_cast<int32_t>(x) - kHalfRootBits;
  const float t = std::bit_cast<float>((offset & kMantissaBits) + kHalfRootBits) - 1.0f;
  float q = kLogPoly[8];
  for (int i = 7; i >= 0; --i) q = q * t + kLogPoly[i];
  const float z = t * t, n = static_cast<float>(offset >> 23);
  return ((q * t * z - 0.5f * z) + n * kLogLn2Low) + t + n * kLogLn2High;
}

float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

float Silu(float x) { return x * Sigmoid(x); }

uint16_t ToFp16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000)
    return static_cast<uint16_t>(sign | 0x7e00 | ((magnitude >> 13) & 0x1ff));  // NaN
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);     // rounds to 2^16 or more
  const uint32_t exponent = magnitude >> 23;
  if (exponent < 102) return static_cast<uint16_t>(sign);  // below half of the least subnormal
  uint32_t mantissa = magnitude;
  uint32_t shift = 13;
  uint32_t base = 0;
  if (exponent < 113) {  // a subnormal half
    mantissa = (magnitude & 0x7fffff) | 0x800000;
    shift = 126 - exponent;
  } else {
    base = 112u << 10;  // the difference of the two exponent biases
  }
  uint32_t rounded = mantissa >> shift;
  const uint32_t rest = mantissa & ((1u << shift) - 1);
  const uint32_t tie = 1u << (shift - 1);
  if (rest > tie || (rest == tie && (rounded & 1))) ++rounded;
  return static_cast<uint16_t>(sign | (rounded - base));
}

float FromFp16(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16;
  const uint32_t exponent = (x >> 10) & 0x1f;
  const uint32_t mantissa = x & 0x3ff;
  if (exponent == 0x1f) {
    const uint32_t quiet = mantissa ? 0x400000u : 0u;
    return std::bit_cast<float>(sign | 0x7f800000 | quiet | (mantissa << 13));
  }
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

}  // namespace omni::kernels
