// The arithmetic of the token path: plain functions on pointers and sizes, one table of them per instruction
// set. Every variant returns the same bytes: integer products are exact, float reductions have one fixed
// shape (16 partial sums, element j goes to sum j mod 16 by fma in ascending j, then i+8, +4, +2, +1), and
// exp, log and their kin are the folder's own fixed sequences of + - x fma / sqrt. Nothing here allocates or
// checks its arguments; the Check… functions below are called once per matrix, at load. All functions are
// thread-safe: they touch only what they are given. Pointers need no alignment; 64-byte alignment is faster.
#pragma once

#include <cstdint>

namespace omni::kernels {

struct Cpu;  // kernels/cpu.h

// kAvx512: F, BW and VL; those after it add VNNI, then VBMI, then AMX tiles of bytes.
enum class Isa : int { kScalar = 0, kAvx2, kAvxVnni, kAvx512, kAvx512Vnni, kAvx512Vbmi, kAmx };
inline constexpr Isa kAllIsas[] = {Isa::kScalar,     Isa::kAvx2,       Isa::kAvxVnni, Isa::kAvx512,
                                   Isa::kAvx512Vnni, Isa::kAvx512Vbmi, Isa::kAmx};

enum class Error : int { kOk = 0, kNull, kShape, kBadCode };

// Ternary matrix, 1.6 bits a weight. A block is 64 bytes = 5 output rows x 64 inputs: byte j holds the trits
// of rows 5g..5g+4 at input 64c+j as t0 + 3 t1 + 9 t2 + 27 t3 + 81 t4, where t = trit + 1 (0, 1, 2) and t_i
// belongs to row 5g+i. Codes 243..255 are invalid. Rows pad to a multiple of 5 and inputs to a multiple of 64
// with trit 0 (code 121 = five zeros). The block of group g and column block c is at
//     (table ? table[c] : base + c * block_stride) + g * group_stride.
struct TernaryMatrix {
  const uint8_t* base = nullptr;
  const uint8_t* const* table = nullptr;
  int64_t block_stride = 64;
  int64_t group_stride = 0;
  int64_t num_blocks = 0;  // ceil(inputs / 64)
  int64_t num_groups = 0;  // ceil(rows / 5)
};
inline constexpr int64_t kTernaryRows = 5, kTernaryCols = 64, kTernaryBlockBytes = 64;
inline constexpr uint8_t kTernaryZeroCode = 121;

// Two-bit matrix. A block is 64 bytes = 4 output rows x 64 inputs: byte j holds the codes of rows 4g..4g+3 at
// input 64c+j, row 4g+i in bits 2i..2i+1. Code c stands for the level 2c - 3 (-3, -1, 1, 3); the weight is
// level * s/2, with one float32 scale s per row kept elsewhere. Inputs pad to 64 (padded inputs meet x = 0),
// rows to 4. The block of group g and column block c is at base + (g * num_blocks + c) * 64.
struct TwoBitMatrix {
  const uint8_t* base = nullptr;
  int64_t num_blocks = 0;
  int64_t num_groups = 0;  // ceil(rows / 4)
};
inline constexpr int64_t kTwoBitRows = 4;

// Row-major int8 matrix; row i at base + i * stride, `cols_padded` (a multiple of 64, zero padded) bytes
// long.
struct Int8Matrix {
  const int8_t* base = nullptr;
  int64_t stride = 0;
  int64_t cols_padded = 0;
  int64_t rows = 0;
};

// The functions of one instruction set. Integer products: x is n rows of int8 in [-127, 127], row t at
// x + t * x_stride, padded with zeros to num_blocks * 64; y[t * y_stride + i] receives the exact int32 sum of
// row i for the rows of groups [group_begin, group_end) (or rows [row_begin, row_end) for int8) and nothing
// else; padded rows of a group are written too. For two_bit the sum is over levels (2c - 3) * x.
struct Ops {
  Isa isa;
  void (*ternary)(const TernaryMatrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                  int64_t y_stride, int64_t group_begin, int64_t group_end);
  void (*two_bit)(const TwoBitMatrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y,
                  int64_t y_stride, int64_t group_begin, int64_t group_end);
  void (*int8)(const Int8Matrix& m, const int8_t* x, int64_t x_stride, int n, int32_t* y, int64_t y_stride,
               int64_t row_begin, int64_t row_end);

  // s = max|x| / 127, q = round-half-even(x / s) (a true division), all-zero rows give s = 0 and q = 0.
  // q[n .. n_padded) is zeroed.
  void (*quantize)(const float* x, int64_t n, int64_t n_padded, int8_t* q, float* scale);

  // y[i] = (x[i] * inv) * g[i] with inv = 1 / sqrt(sum(x^2) / n + 1e-6); sum(x^2) in the fixed reduction
  // shape. y may be x.
  void (*rms_norm)(const float* x, const float* g, int64_t n, float* y);

  float (*dot)(const float* a, const float* b, int64_t n);  // fixed reduction shape

  // y[i] = float(acc[i]) * (x_scale * row_scale[i]).
  void (*scale_rows)(const int32_t* acc, const float* row_scale, float x_scale, int64_t n, float* y);

  // gamma[i] = max(sigmoid(p[i] + b[i]), floor): the decay of PDR row i; floor = e^decay_floor as a float.
  void (*decay)(const float* p, const float* b, float floor, int64_t n, float* gamma);

  // PDR state step for `rows` rows of S (row i at S + i * r): S[i][j] = gamma[i] * S[i][j] + v[i] * k[j] (two
  // products, one addition, each rounded), then out[i] = S[i] . q in the fixed reduction shape.
  void (*pdr_step)(float* S, const float* gamma, const float* v, const float* k, const float* q, int64_t rows,
                   int64_t r, float* out);

  // The same outputs; S stays as it is.
  void (*pdr_read)(const float* S, const float* gamma, const float* v, const float* k, const float* q,
                   int64_t rows, int64_t r, float* out);

  // RoPE on one head of h floats, pairs (i, i + h/2): x_i' = x_i cos_i - x_{i+h/2} sin_i,
  // x_{i+h/2}' = x_i sin_i + x_{i+h/2} cos_i (products and sum each rounded).
  void (*rope)(float* x, const float* cos, const float* sin, int64_t h);

  void (*to_fp16)(const float* x, int64_t n, uint16_t* y);  // round to nearest even
  void (*from_fp16)(const uint16_t* x, int64_t n, float* y);

  // One query head over `len` cached positions: score[j] = (q . k_j) * scale with K row j at k + j * h (fp16,
  // widened exactly), weights = exp(score - max) / sum, out[i] = sum_j weights[j] * v_j[i]; all sums in the
  // fixed shape over their index (h for scores, j for the others). scratch: len + 16 floats.
  void (*attend)(const float* q, const uint16_t* k, const uint16_t* v, int64_t h, int64_t len, float scale,
                 float* scratch, float* out);

  // out[i] = up_i * silu(gate_i), gate_i = float(gate[i*stride]) * (x_scale * gate_scale[i]), up_i likewise.
  void (*swiglu)(const int32_t* gate, const int32_t* up, int64_t stride, const float* gate_scale,
                 const float* up_scale, float x_scale, int64_t n, float* out);

  void (*add)(float* x, const float* y, int64_t n);  // x += y

  // u[i] = u[i] + rate * (h[i] - u[i]): the difference is rounded, then one fma.
  void (*slow_step)(float* u, const float* h, float rate, int64_t n);

  // The number of bits in which two vectors of `bytes` bytes differ (Hamming distance of hypervectors).
  int64_t (*differing_bits)(const uint8_t* a, const uint8_t* b, int64_t bytes);

  // max (exact), then e[i] = exp(x[i] - max) and their fixed-shape sum: softmax without the division.
  float (*exp_sum)(const float* x, int64_t n, float* e, float* max);

  void (*log)(const float* x, int64_t n, float* y);  // y[i] = Log(x[i]); y may be x

  // The fixed-shape sum of m log m over m[i] = 0.5 * (p[i] + q[i]): what the entropy of the average of two
  // distributions is the negative of, and with p = q that of one.
  float (*m_log_m)(const float* p, const float* q, int64_t n);
};

// The functions of `isa`, or null if this CPU (or this build) lacks it. kScalar is always there.
const Ops* OpsFor(Isa isa);
// The last of kAllIsas that `cpu` supports and this build has.
const Ops& BestOps(const Cpu& cpu);
// The best this CPU has, or what OMNI_ISA names (IsaName's words); decided once.
const Ops& ActiveOps();
const char* IsaName(Isa isa);

// The most columns a matrix may have: up to here no intermediate sum of any variant leaves 32 bits.
inline constexpr int64_t kMaxCols = 65536;

// Checked once per matrix at load, in debug and release alike. kShape: a count that is not the one rows and
// cols (1 .. kMaxCols) ask for, or strides that make blocks or rows overlap their neighbours.
Error CheckTernary(const TernaryMatrix& m, int64_t rows, int64_t cols);
Error CheckTwoBit(const TwoBitMatrix& m, int64_t rows, int64_t cols);
Error CheckInt8(const Int8Matrix& m, int64_t rows, int64_t cols);
const char* ErrorText(Error e);

// The shared scalar definitions (for tests, the trainer and code off the token path).
float Exp(float x);
float Log(float x);  // of finite x > 0, within 3 units in the last place; less than 2^-126 counts as that
float Sigmoid(float x);
float Silu(float x);  // x * Sigmoid(x)
uint16_t ToFp16(float x);
float FromFp16(uint16_t x);

}  // namespace omni::kernels
