// The float functions of op.h over 16 lanes, written once for every vector instruction set. A file compiled
// with that set's flags defines the lanes V in its anonymous namespace and takes VectorOps<V>, so nothing
// here is shared code: each instance is private to its file. Every function does what its namesake in
// op_ref.cc does, in the same order.
//
// V offers F (16 floats), Mask (the first so many lanes), kMixRows (accumulators that fit its registers), and
// on them Load, LoadOr, Store, LoadHalf, StoreHalf, StoreInt8, LoadInts, LoadIntsStrided (int32 widened to
// float), Zero, Set, Add, Sub, Mul, Div, Fma, Min(a, b) = a < b ? a : b, Max(a, b) = a > b ? a : b, Abs,
// Negate, FmaIf (lanes outside the mask keep the addend), TimesPowerOfTwo, FromPowerOfTwo (x = 2^n m with m
// in [1/sqrt 2, sqrt 2)), Sum and Sum4 (the pairwise tree), MaxLane. Loads under a mask read nothing else.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/op.h"
#include "kernels/variants.h"

namespace omni::kernels {

struct All {};  // the mask of sixteen live lanes

template <int kRows>
struct Rows {
  static constexpr int kCount = kRows;
};

// Calls run(Rows<...>{}, first row, begin, end) for all n rows of x, kMaxRows at a time and then the rest.
template <int kMaxRows, class Run>
void TakeRows(int first, int n, int64_t begin, int64_t end, Run& run) {
  for (; first + kMaxRows <= n; first += kMaxRows) run(Rows<kMaxRows>{}, first, begin, end);
  if constexpr (kMaxRows > 1) TakeRows<kMaxRows - 1>(first, n, begin, end, run);
}

// Takes the units [begin, end) of a matrix in slices, a multiple of `step` units each, that stay in the
// first-level cache (commonly 32 or 48 KiB) while the rows of x pass over them; rows that pass together need
// no slices.
template <int kMaxRows, class Run>
void Slices(int n, int64_t bytes_per_unit, int64_t step, int64_t begin, int64_t end, Run run) {
  constexpr int64_t kResidentBytes = 24 << 10;
  int64_t slice = kResidentBytes / bytes_per_unit / step * step;
  if (slice < step) slice = step;
  if (n <= kMaxRows && end > begin) slice = end - begin;
  for (int64_t b = begin; b < end; b += slice)
    TakeRows<kMaxRows>(0, n, b, b + slice < end ? b + slice : end, run);
}

template <class V>
struct VectorOps {
  using F = typename V::F;

  template <class Body>
  static void ForEach(int64_t n, Body body) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) body(i, All{});
    if (i < n) body(i, V::FirstN(static_cast<int>(n - i)));
  }

  static F Exp(F x) {
    x = V::Min(V::Set(kExpMax), x);
    x = V::Max(V::Set(kExpMin), x);
    const F t = V::Fma(x, V::Set(kLog2E), V::Set(kRoundMagic));
    const F n = V::Sub(t, V::Set(kRoundMagic));
    F r = V::Fma(n, V::Set(-kLn2High), x);
    r = V::Fma(n, V::Set(-kLn2Low), r);
    F p = V::Set(kExpPoly[4]);
    for (int i = 3; i >= 0; --i) p = V::Fma(p, r, V::Set(kExpPoly[i]));
    p = V::Fma(p, V::Mul(r, r), r);
    p = V::Add(V::Set(1.0f), p);
    return V::TimesPowerOfTwo(p, n);
  }

  static F Log(F x) {
    F m;
    const F n = V::FromPowerOfTwo(V::Max(V::Set(kLogMin), x), m);
    const F t = V::Sub(m, V::Set(1.0f));
    F q = V::Set(kLogPoly[8]);
    for (int i = 7; i >= 0; --i) q = V::Add(V::Mul(q, t), V::Set(kLogPoly[i]));
    const F z = V::Mul(t, t);
    F sum = V::Sub(V::Mul(V::Mul(q, t), z), V::Mul(V::Set(0.5f), z));
    sum = V::Add(sum, V::Mul(n, V::Set(kLogLn2Low)));
    return V::Add(V::Add(sum, t), V::Mul(n, V::Set(kLogLn2High)));
  }

  static F Sigmoid(F x) { return V::Div(V::Set(1.0f), V::Add(V::Set(1.0f), Exp(V::Negate(x)))); }

  static void Quantize(const float* x, int64_t n, int64_t n_padded, int8_t* q, float* scale) {
    F largest = V::Zero();
    ForEach(n, [&](int64_t i, auto m) { largest = V::Max(V::Abs(V::Load(x + i, m)), largest); });
    const float s = V::MaxLane(largest) / kInt8Max;
    *scale = s;
    if (!(s > 0)) {
      std::memset(q, 0, static_cast<size_t>(n_padded));
      return;
    }
    const F divisor = V::Set(s);
    ForEach(n, [&](int64_t i, auto m) {
      F v = V::Div(V::Load(x + i, m), divisor);
      v = V::Min(v, V::Set(kInt8Max));
      v = V::Max(v, V::Set(-kInt8Max));
      V::StoreInt8(q + i, v, m);
    });
    std::memset(q + n, 0, static_cast<size_t>(n_padded - n));
  }

  static float Dot(const float* a, const float* b, int64_t n) {
    F sum = V::Zero();
    ForEach(n, [&](int64_t i, auto m) { sum = V::FmaIf(V::Load(a + i, m), V::Load(b + i, m), sum, m); });
    return V::Sum(sum);
  }

  static void RmsNorm(const float* x, const float* g, int64_t n, float* y) {
    const float mean = Dot(x, x, n) / static_cast<float>(n);
    const F inv = V::Set(1.0f / V::Sqrt(mean + kRmsEpsilon));
    ForEach(n, [&](int64_t i, auto m) {
      V::Store(y + i, V::Mul(V::Mul(V::Load(x + i, m), inv), V::Load(g + i, m)), m);
    });
  }

  static void ScaleRows(const int32_t* acc, const float* row_scale, float x_scale, int64_t n, float* y) {
    const F s = V::Set(x_scale);
    ForEach(n, [&](int64_t i, auto m) {
      V::Store(y + i, V::Mul(V::LoadInts(acc + i, m), V::Mul(s, V::Load(row_scale + i, m))), m);
    });
  }

  static void Decay(const float* p, const float* b, float floor, int64_t n, float* gamma) {
    ForEach(n, [&](int64_t i, auto m) {
      const F s = Sigmoid(V::Add(V::Load(p + i, m), V::Load(b + i, m)));
      V::Store(gamma + i, V::Max(V::Set(floor), s), m);
    });
  }

  // kRows rows at once: their sums are independent chains, which hides the latency of fma.
  template <int kRows, class Float>
  static void PdrRows(Float* S, const float* gamma, const float* v, const float* k, const float* q, int64_t r,
                      F (&sum)[kRows]) {
    F g[kRows], w[kRows];
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      g[i] = V::Set(gamma[i]);
      w[i] = V::Set(v[i]);
      sum[i] = V::Zero();
    }
    ForEach(r, [&](int64_t j, auto m) {
      const F key = V::Load(k + j, m);
      const F query = V::Load(q + j, m);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) {
        const F s = V::Add(V::Mul(g[i], V::Load(S + i * r + j, m)), V::Mul(w[i], key));
        if constexpr (!std::is_const_v<Float>) V::Store(S + i * r + j, s, m);
        sum[i] = V::FmaIf(s, query, sum[i], m);
      }
    });
  }

  template <class Float>
  static void Pdr(Float* S, const float* gamma, const float* v, const float* k, const float* q, int64_t rows,
                  int64_t r, float* out) {
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
      F sum[4];
      PdrRows<4>(S + i * r, gamma + i, v + i, k, q, r, sum);
      V::Sum4(sum, out + i);
    }
    for (; i < rows; ++i) {
      F sum[1];
      PdrRows<1>(S + i * r, gamma + i, v + i, k, q, r, sum);
      out[i] = V::Sum(sum[0]);
    }
  }

  static void PdrStep(float* S, const float* gamma, const float* v, const float* k, const float* q,
                      int64_t rows, int64_t r, float* out) {
    Pdr(S, gamma, v, k, q, rows, r, out);
  }

  static void PdrRead(const float* S, const float* gamma, const float* v, const float* k, const float* q,
                      int64_t rows, int64_t r, float* out) {
    Pdr(S, gamma, v, k, q, rows, r, out);
  }

  static void Rope(float* x, const float* cos, const float* sin, int64_t h) {
    float* x2 = x + h / 2;
    ForEach(h / 2, [&](int64_t i, auto m) {
      const F a = V::Load(x + i, m);
      const F b = V::Load(x2 + i, m);
      const F c = V::Load(cos + i, m);
      const F s = V::Load(sin + i, m);
      V::Store(x + i, V::Sub(V::Mul(a, c), V::Mul(b, s)), m);
      V::Store(x2 + i, V::Add(V::Mul(a, s), V::Mul(b, c)), m);
    });
  }

  static void ToFp16(const float* x, int64_t n, uint16_t* y) {
    ForEach(n, [&](int64_t i, auto m) { V::StoreHalf(y + i, V::Load(x + i, m), m); });
  }

  static void FromFp16(const uint16_t* x, int64_t n, float* y) {
    ForEach(n, [&](int64_t i, auto m) { V::Store(y + i, V::LoadHalf(x + i, m), m); });
  }

  static float ExpSum(const float* x, int64_t n, float* e, float* max) {
    const F lowest = V::Set(-__builtin_inff());
    F largest = lowest;
    ForEach(n, [&](int64_t i, auto m) { largest = V::Max(V::LoadOr(x + i, lowest, m), largest); });
    *max = V::MaxLane(largest) + 0.0f;
    const F shift = V::Set(*max);
    const F one = V::Set(1.0f);
    F sum = V::Zero();
    ForEach(n, [&](int64_t i, auto m) {
      const F v = Exp(V::Sub(V::Load(x + i, m), shift));
      V::Store(e + i, v, m);
      sum = V::FmaIf(v, one, sum, m);
    });
    return V::Sum(sum);
  }

  static void LogOf(const float* x, int64_t n, float* y) {
    ForEach(n, [&](int64_t i, auto m) { V::Store(y + i, Log(V::Load(x + i, m)), m); });
  }

  static float MLogM(const float* p, const float* q, int64_t n) {
    const F one = V::Set(1.0f), half = V::Set(0.5f);
    F sum = V::Zero();
    ForEach(n, [&](int64_t i, auto mask) {
      const F m = V::Mul(half, V::Add(V::Load(p + i, mask), V::Load(q + i, mask)));
      sum = V::FmaIf(V::Mul(m, Log(m)), one, sum, mask);
    });
    return V::Sum(sum);
  }

  template <int kRows>
  static void Scores(const float* q, const uint16_t* k, int64_t h, F (&sum)[kRows]) {
#pragma GCC unroll 4
    for (int j = 0; j < kRows; ++j) sum[j] = V::Zero();
    ForEach(h, [&](int64_t i, auto m) {
      const F query = V::Load(q + i, m);
#pragma GCC unroll 4
      for (int j = 0; j < kRows; ++j) sum[j] = V::FmaIf(query, V::LoadHalf(k + j * h + i, m), sum[j], m);
    });
  }

  // Sixteen outputs from column i on. Position j belongs to partial sum j mod 16, a register of its own.
  template <class Mask>
  static F Mix(const float* weights, const uint16_t* v, int64_t h, int64_t len, Mask m) {
    constexpr int kRows = V::kMixRows;
    F part[kLanes];
#pragma GCC unroll 16
    for (int first = 0; first < kLanes; first += kRows) {
      F sum[kRows];
#pragma GCC unroll 16
      for (int u = 0; u < kRows; ++u) sum[u] = V::Zero();
      int64_t j = first;
      for (; j + kRows <= len; j += kLanes) {
#pragma GCC unroll 16
        for (int u = 0; u < kRows; ++u) {
          sum[u] = V::Fma(V::Set(weights[j + u]), V::LoadHalf(v + (j + u) * h, m), sum[u]);
        }
      }
#pragma GCC unroll 16
      for (int u = 0; u < kRows; ++u) {
        if (j + u < len) sum[u] = V::Fma(V::Set(weights[j + u]), V::LoadHalf(v + (j + u) * h, m), sum[u]);
        part[first + u] = sum[u];
      }
    }
#pragma GCC unroll 4
    for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < half; ++i) part[i] = V::Add(part[i], part[i + half]);
    }
    return part[0];
  }

  static void Attend(const float* q, const uint16_t* k, const uint16_t* v, int64_t h, int64_t len,
                     float scale, float* scratch, float* out) {
    int64_t j = 0;
    for (; j + 4 <= len; j += 4) {
      F sum[4];
      Scores<4>(q, k + j * h, h, sum);
      V::Sum4(sum, scratch + j);
    }
    for (; j < len; ++j) {
      F sum[1];
      Scores<1>(q, k + j * h, h, sum);
      scratch[j] = V::Sum(sum[0]);
    }
    const F s = V::Set(scale);
    ForEach(len, [&](int64_t i, auto m) { V::Store(scratch + i, V::Mul(V::Load(scratch + i, m), s), m); });
    float max;
    const F total = V::Set(ExpSum(scratch, len, scratch, &max));
    ForEach(len,
            [&](int64_t i, auto m) { V::Store(scratch + i, V::Div(V::Load(scratch + i, m), total), m); });
    ForEach(h, [&](int64_t i, auto m) { V::Store(out + i, Mix(scratch, v + i, h, len, m), m); });
  }

  static void Swiglu(const int32_t* gate, const int32_t* up, int64_t stride, const float* gate_scale,
                     const float* up_scale, float x_scale, int64_t n, float* out) {
    const F s = V::Set(x_scale);
    ForEach(n, [&](int64_t i, auto m) {
      const int count = static_cast<int>(n - i < kLanes ? n - i : kLanes);
      const F gate_int = V::LoadIntsStrided(gate + i * stride, stride, count);
      const F up_int = V::LoadIntsStrided(up + i * stride, stride, count);
      const F g = V::Mul(gate_int, V::Mul(s, V::Load(gate_scale + i, m)));
      const F u = V::Mul(up_int, V::Mul(s, V::Load(up_scale + i, m)));
      V::Store(out + i, V::Mul(u, V::Mul(g, Sigmoid(g))), m);
    });
  }

  static void Add(float* x, const float* y, int64_t n) {
    ForEach(n, [&](int64_t i, auto m) { V::Store(x + i, V::Add(V::Load(x + i, m), V::Load(y + i, m)), m); });
  }

  static void SlowStep(float* u, const float* h, float rate, int64_t n) {
    const F step = V::Set(rate);
    ForEach(n, [&](int64_t i, auto m) {
      const F before = V::Load(u + i, m);
      V::Store(u + i, V::Fma(step, V::Sub(V::Load(h + i, m), before), before), m);
    });
  }

  template <class Integers>
  static constexpr Ops Table(Isa isa, Integers) {
    return Ops{
        .isa = isa,
        .ternary = Integers::Ternary,
        .two_bit = Integers::TwoBit,
        .int8 = Integers::Int8,
        .quantize = Quantize,
        .rms_norm = RmsNorm,
        .dot = Dot,
        .scale_rows = ScaleRows,
        .decay = Decay,
        .pdr_step = PdrStep,
        .pdr_read = PdrRead,
        .rope = Rope,
        .to_fp16 = ToFp16,
        .from_fp16 = FromFp16,
        .attend = Attend,
        .swiglu = Swiglu,
        .add = Add,
        .slow_step = SlowStep,
        .differing_bits = Integers::DifferingBits,
        .exp_sum = ExpSum,
        .log = LogOf,
        .m_log_m = MLogM,
    };
  }
};

}  // namespace omni::kernels
