// The trainer's inner loops for one instruction set; compiled once per set with OMNI_TRAIN_ISA naming the
// namespace.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "engine/model/quantize.h"
#include "engine/train/cpu_ops.h"

namespace omni::train::OMNI_TRAIN_ISA {
namespace {

// A register of floats.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t IVec __attribute__((vector_size(4 * kLanes)));
typedef uint32_t UVec __attribute__((vector_size(4 * kLanes)));

// Flush-to-zero while decays below float's normal range pass by.
struct DenormalsOff {
  unsigned saved = _mm_getcsr();
  DenormalsOff() { _mm_setcsr(saved | 0x8040); }
  ~DenormalsOff() { _mm_setcsr(saved); }
};

inline Vec Load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void Store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

inline float Sum(Vec v) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

// exp to about 1 ulp for x in [-88, 88] (clamped): 2^n * polynomial(x - n log 2).
inline Vec ExpVec(Vec x) {
  const Vec zero{};
  x = x > 88.0f ? zero + 88.0f : x;
  x = x < -87.3f ? zero - 87.3f : x;
  const Vec magic = zero + 12582912.0f;  // 1.5 * 2^23: adding rounds to an integer
  Vec n = x * 1.44269504f + magic;
  const IVec bits = reinterpret_cast<IVec>(n);
  n -= magic;
  const Vec f = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vec y = zero + 1.9875691500e-4f;
  y = y * f + 1.3981999507e-3f;
  y = y * f + 8.3334519073e-3f;
  y = y * f + 4.1665795894e-2f;
  y = y * f + 1.6666665459e-1f;
  y = y * f + 5.0000001201e-1f;
  y = y * (f * f) + f + 1.0f;
  const IVec power = (bits << 23) + 0x3f800000;
  return y * reinterpret_cast<Vec>(power);
}

// log(1 + e) for e in [0, 1].
inline Vec Log1pVec(Vec e) {
  // log(1 + e) = 2 atanh(s), s = e / (2 + e) <= 1/3.
  const Vec s = e / (e + 2.0f);
  const Vec s2 = s * s;
  Vec y = Vec{} + 2.0f / 15.0f;
  y = y * s2 + 2.0f / 13.0f;
  y = y * s2 + 2.0f / 11.0f;
  y = y * s2 + 2.0f / 9.0f;
  y = y * s2 + 2.0f / 7.0f;
  y = y * s2 + 2.0f / 5.0f;
  y = y * s2 + 2.0f / 3.0f;
  return y * s2 * s + s * 2.0f;
}

inline bf16 ToBf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#include "engine/train/cpu_gemm.inc"
#include "engine/train/cpu_pdr.inc"

void Quantize(const float* x, int64_t rows, int64_t cols, bf16* q, float* scale) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = x + i * cols;
    float max = 0;
    for (int64_t j = 0; j < cols; ++j) max = std::max(max, std::fabs(row[j]));
    const float s = max / 127.0f;
    scale[i] = s;
    if (s > 0) {
      for (int64_t j = 0; j < cols; ++j) q[i * cols + j] = ToBf16(std::rint(row[j] / s));
    } else {
      std::memset(q + i * cols, 0, static_cast<size_t>(cols) * 2);
    }
  }
}

void ToBf16Matrix(const float* x, int64_t rows, int64_t cols, int64_t ldx, const float* row_scale,
                  const float* col_scale, bf16* out, int64_t ldo) {
  for (int64_t i = 0; i < rows; ++i) {
    const float s = row_scale ? row_scale[i] : 1.0f;
    const float* row = x + i * ldx;
    bf16* o = out + i * ldo;
    if (col_scale) {
      for (int64_t j = 0; j < cols; ++j) o[j] = ToBf16(row[j] * (s * col_scale[j]));
    } else {
      for (int64_t j = 0; j < cols; ++j) o[j] = ToBf16(row[j] * s);
    }
  }
}

template <typename Quantizer>
void CodeRows(const float* w, int64_t rows, int64_t cols, bf16* codes, float* scale, Quantizer quantizer) {
  static const bf16 kTable[7] = {0xc040, 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000, 0x4040};  // -3 … 3
  std::vector<int8_t> row(static_cast<size_t>(cols));
  for (int64_t i = 0; i < rows; ++i) {
    scale[i] = quantizer(w + i * cols, cols, row.data());
    for (int64_t j = 0; j < cols; ++j) codes[i * cols + j] = kTable[row[j] + 3];
  }
}

void TernaryRows(const float* w, int64_t rows, int64_t cols, bf16* codes, float* scale) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = w + i * cols;
    double part[16] = {};
    int64_t j = 0;
    for (; j + 16 <= cols; j += 16) {
      for (int64_t l = 0; l < 16; ++l) part[l] += static_cast<double>(std::fabs(row[j + l]));
    }
    for (; j < cols; ++j) part[j % 16] += static_cast<double>(std::fabs(row[j]));
    for (int half = 8; half >= 1; half /= 2) {
      for (int l = 0; l < half; ++l) part[l] += part[l + half];
    }
    const float mean = static_cast<float>(part[0] / static_cast<double>(cols));
    const float limit = 0.5f * mean;
    scale[i] = mean;
    bf16* out = codes + i * cols;
    for (j = 0; j < cols; ++j) {
      const float value = row[j];
      out[j] = static_cast<bf16>(value > limit ? 0x3f80 : value < -limit ? 0xbf80 : 0);
    }
  }
}

void TwoBitRows(const float* w, int64_t rows, int64_t cols, bf16* codes, float* scale) {
  CodeRows(w, rows, cols, codes, scale,
           [](const float* x, int64_t n, int8_t* out) { return 0.5f * TwoBitLevels(x, n, out); });
}

void Int8Rows(const float* w, int64_t rows, int64_t cols, bf16* codes, float* scale) {
  Quantize(w, rows, cols, codes, scale);
}

void RmsNorm(const float* x, const float* g, int64_t rows, int64_t d, float* h, float* inv) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = x + i * d;
    Vec acc{};
    int64_t j = 0;
    for (; j + kLanes <= d; j += kLanes) acc += Load(row + j) * Load(row + j);
    float sum = Sum(acc);
    for (; j < d; ++j) sum += row[j] * row[j];
    const float r = 1.0f / std::sqrt(sum / static_cast<float>(d) + 1e-6f);
    inv[i] = r;
    for (j = 0; j < d; ++j) h[i * d + j] = (row[j] * r) * g[j];
  }
}

void RmsNormGrad(const float* x, const float* g, const float* inv, const float* dh, int64_t rows, int64_t d,
                 float* dx, float* dg) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* row = x + i * d;
    const float* grad = dh + i * d;
    Vec acc{};
    int64_t j = 0;
    for (; j + kLanes <= d; j += kLanes) acc += Load(row + j) * Load(g + j) * Load(grad + j);
    float dot = Sum(acc);
    for (; j < d; ++j) dot += row[j] * g[j] * grad[j];
    const float r = inv[i];
    const float pull = dot * r * r * r / static_cast<float>(d);
    for (j = 0; j < d; ++j) {
      dx[i * d + j] = grad[j] * g[j] * r - row[j] * pull;
      dg[j] += grad[j] * row[j] * r;
    }
  }
}

void Swiglu(const float* gate, const float* up, int64_t ld, int64_t rows, int64_t f, float* a, int64_t lda) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* g = gate + i * ld;
    const float* u = up + i * ld;
    float* out = a + i * lda;
    int64_t j = 0;
    for (; j + kLanes <= f; j += kLanes) {
      const Vec x = Load(g + j);
      Store(out + j, Load(u + j) * (x / (1.0f + ExpVec(-x))));
    }
    for (; j < f; ++j) out[j] = u[j] * (g[j] / (1.0f + std::exp(-g[j])));
  }
}

void SwigluGrad(const float* gate, const float* up, int64_t ld, int64_t rows, int64_t f, const float* da,
                int64_t ldda, float* dgate, float* dup, int64_t lddg) {
  for (int64_t i = 0; i < rows; ++i) {
    const float* g = gate + i * ld;
    const float* u = up + i * ld;
    const float* grad = da + i * ldda;
    float* dg = dgate + i * lddg;
    float* du = dup + i * lddg;
    int64_t j = 0;
    for (; j + kLanes <= f; j += kLanes) {
      const Vec x = Load(g + j), d = Load(grad + j);
      const Vec s = 1.0f / (1.0f + ExpVec(-x));
      const Vec y = x * s;
      const Vec dgv = d * Load(u + j) * (s + y * (1.0f - s));
      Store(du + j, d * y);
      Store(dg + j, dgv);
    }
    for (; j < f; ++j) {
      const float s = 1.0f / (1.0f + std::exp(-g[j]));
      const float y = g[j] * s, d = grad[j];
      const float dgv = d * u[j] * (s + y * (1.0f - s));
      du[j] = d * y;
      dg[j] = dgv;
    }
  }
}

// softmax(-dist^2 / temperature) over experts for one row into w (padded to 16); returns the nearest expert
// but for the bias.
int32_t RouteRow(const float* z, const float* pos_t, int64_t padded, int64_t experts, const float* bias,
                 float temperature, float* w) {
  const Vec zero{};
  float best = 1e30f;
  for (int64_t e = 0; e < padded; e += kLanes) {
    Vec dist = zero;
    for (int axis = 0; axis < 3; ++axis) {
      Vec delta = (zero + z[axis]) - Load(pos_t + axis * padded + e);
      delta = delta < zero ? -delta : delta;
      const Vec wrapped = 1.0f - delta;
      delta = delta < wrapped ? delta : wrapped;
      dist += delta * delta;
    }
    Store(w + e, dist);
  }
  int32_t nearest = 0;
  for (int64_t e = 0; e < experts; ++e) {
    if (w[e] < best) best = w[e], nearest = static_cast<int32_t>(e);
  }
  if (bias != nullptr) {
    float least = 1e30f;
    for (int64_t e = 0; e < experts; ++e) {
      const float biased = w[e] - bias[e];
      if (biased < least) least = biased, nearest = static_cast<int32_t>(e);
    }
  }
  Vec total = zero;
  for (int64_t e = 0; e < padded; e += kLanes) {
    Vec y = ExpVec((best - Load(w + e)) / temperature);
    if (e + kLanes > experts) {
      for (int64_t l = std::max<int64_t>(0, experts - e); l < kLanes; ++l) y[l] = 0;
    }
    total += y;
    Store(w + e, y);
  }
  const float inv = 1.0f / Sum(total);
  for (int64_t e = 0; e < padded; e += kLanes) Store(w + e, Load(w + e) * inv);
  return nearest;
}

std::vector<float> TransposePositions(const float* positions, int64_t experts, int64_t padded) {
  std::vector<float> t(static_cast<size_t>(3 * padded), 0.0f);
  for (int64_t e = 0; e < experts; ++e) {
    for (int axis = 0; axis < 3; ++axis) t[axis * padded + e] = positions[3 * e + axis];
  }
  return t;
}

bool IsChosen(const Lattice& lattice, int64_t expert, int32_t route) {
  return lattice.region == nullptr ? expert == route : lattice.region[expert] == lattice.region[route];
}

float ChosenProbability(const Lattice& lattice, int32_t route, const float* w) {
  if (lattice.region == nullptr) return w[route];
  float sum = 0;
  for (int64_t e = 0; e < lattice.experts; ++e) sum += IsChosen(lattice, e, route) ? w[e] : 0.0f;
  return sum;
}

void Route(const float* z, const Lattice& lattice, int64_t n, float temperature, int32_t* route, float* prob,
           float* mean_prob) {
  const int64_t experts = lattice.experts, padded = (experts + 15) / 16 * 16;
  const std::vector<float> pos_t = TransposePositions(lattice.positions, experts, padded);
  std::vector<float> w(static_cast<size_t>(padded));
  for (int64_t i = 0; i < n; ++i) {
    route[i] = RouteRow(z + 3 * i, pos_t.data(), padded, experts, lattice.bias, temperature, w.data());
    prob[i] = ChosenProbability(lattice, route[i], w.data());
    for (int64_t e = 0; e < experts; ++e) mean_prob[e] += w[e];
  }
}

void RouteGrad(const float* z, const Lattice& lattice, int64_t n, float temperature, const int32_t* route,
               const float* dprob, const float* dmean, float* dz) {
  const int64_t experts = lattice.experts, padded = (experts + 15) / 16 * 16;
  const std::vector<float> pos_t = TransposePositions(lattice.positions, experts, padded);
  std::vector<float> w(static_cast<size_t>(padded)), dm(static_cast<size_t>(padded), 0.0f);
  std::copy(dmean, dmean + experts, dm.begin());
  const Vec zero{};
  for (int64_t i = 0; i < n; ++i) {
    RouteRow(z + 3 * i, pos_t.data(), padded, experts, nullptr, temperature, w.data());
    const int32_t r = route[i];
    Vec inner = zero;
    for (int64_t e = 0; e < padded; e += kLanes) inner += Load(w.data() + e) * Load(dm.data() + e);
    const float mean = Sum(inner) + ChosenProbability(lattice, r, w.data()) * dprob[i];
    Vec grad[3] = {};
    for (int64_t e = 0; e < padded; e += kLanes) {
      Vec de = Load(dm.data() + e) - mean;
      if (lattice.region != nullptr) {
        for (int64_t l = 0; l < std::min<int64_t>(kLanes, experts - e); ++l) {
          if (IsChosen(lattice, e + l, r)) de[l] += dprob[i];
        }
      } else if (r >= e && r < e + kLanes) {
        de[r - e] += dprob[i];
      }
      const Vec dlogit = Load(w.data() + e) * de;
      for (int axis = 0; axis < 3; ++axis) {
        // signed shortest way from the expert to z, in (-1/2, 1/2]
        Vec delta = (zero + z[3 * i + axis]) - Load(pos_t.data() + axis * padded + e);
        delta = delta > 0.5f ? delta - 1.0f : delta;
        delta = delta < -0.5f ? delta + 1.0f : delta;
        grad[axis] += dlogit * delta;
      }
    }
    for (int axis = 0; axis < 3; ++axis) dz[3 * i + axis] = -2.0f / temperature * Sum(grad[axis]);
  }
}

double CrossEntropy(float* logits, const int32_t* targets, int64_t rows, int64_t vocab, float grad_scale) {
  double loss = 0;
  for (int64_t i = 0; i < rows; ++i) {
    float* row = logits + i * vocab;
    if (targets[i] < 0) {
      std::memset(row, 0, static_cast<size_t>(vocab) * 4);
      continue;
    }
    float max = row[0];
    for (int64_t j = 1; j < vocab; ++j) max = std::max(max, row[j]);
    const float target = row[targets[i]];
    Vec total{};
    float sum = 0;
    int64_t j = 0;
    for (; j + kLanes <= vocab; j += kLanes) {
      const Vec e = ExpVec(Load(row + j) - max);
      Store(row + j, e);
      total += e;
    }
    for (; j < vocab; ++j) sum += row[j] = std::exp(row[j] - max);
    sum += Sum(total);
    loss += std::log(static_cast<double>(sum)) + max - target;
    const float k = grad_scale / sum;
    for (j = 0; j < vocab; ++j) row[j] *= k;
    row[targets[i]] -= grad_scale;
  }
  return loss;
}

void AdamW(float* w, float* m, float* v, const float* g, int64_t n, float lr, float beta1, float beta2,
           float eps, float decay, float correction1, float correction2, float grad_scale) {
  const float step = lr / correction1;
  const float inv2 = 1.0f / correction2;
  const float keep = 1.0f - lr * decay;
  for (int64_t i = 0; i < n; ++i) {
    const float grad = g[i] * grad_scale;
    const float mi = m[i] + (1.0f - beta1) * (grad - m[i]);
    const float vi = v[i] + (1.0f - beta2) * (grad * grad - v[i]);
    m[i] = mi;
    v[i] = vi;
    w[i] = w[i] * keep - step * mi / (std::sqrt(vi * inv2) + eps);
  }
}

double SumSquares(const float* x, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; i += 4096) {
    const int64_t end = std::min(n, i + 4096);
    float part = 0;
    for (int64_t j = i; j < end; ++j) part += x[j] * x[j];
    total += part;
  }
  return total;
}

void Dropout(const float* o, int64_t n, uint64_t key, uint64_t first_index, float rate, float* x, bool add) {
  const auto limit = static_cast<uint32_t>(static_cast<double>(rate) * 4294967296.0);
  const float scale = 1.0f / (1.0f - rate);
  const auto k = static_cast<uint32_t>(key ^ (key >> 32));
  for (int64_t i = 0; i < n; ++i) {
    uint32_t h = static_cast<uint32_t>(first_index + static_cast<uint64_t>(i)) * 0x9e3779b9u + k;
    h ^= h >> 16;
    h *= 0x7feb352du;
    h ^= h >> 15;
    h *= 0x846ca68bu;
    h ^= h >> 16;
    const float value = h < limit ? 0.0f : o[i] * scale;
    x[i] = add ? x[i] + value : value;
  }
}

}  // namespace

#define OMNI_STRING2(x) #x
#define OMNI_STRING(x) OMNI_STRING2(x)
extern const CpuOps kOps;
const CpuOps kOps = {OMNI_STRING(OMNI_TRAIN_ISA),
                     PackTransposed,
                     Pack,
                     Gemm,
                     GemmCodes,
                     GemmTn,
                     Quantize,
                     ToBf16Matrix,
                     TernaryRows,
                     TwoBitRows,
                     Int8Rows,
                     RmsNorm,
                     RmsNormGrad,
                     Swiglu,
                     SwigluGrad,
                     Pdr,
                     PdrGrad,
                     Route,
                     RouteGrad,
                     CrossEntropy,
                     AdamW,
                     SumSquares,
                     Dropout};

}  // namespace omni::train::OMNI_TRAIN_ISA
