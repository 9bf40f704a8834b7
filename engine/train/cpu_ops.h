// The trainer's inner loops on the CPU: bf16 products with float32 accumulation, on AMX tiles where there are
// any (exact for the integer codes they are given), the recurrence, norms, quantisation, router, loss and
// optimiser. One table per instruction set, chosen at run time. Matrices are row-major. Every function but
// the ones taking `threads` is single-threaded.
#pragma once

#include <cstdint>
#include <string_view>

namespace omni::kernels {
struct Cpu;
}

namespace omni::train {

using bf16 = uint16_t;  // bit pattern

// Packed right-hand side of a product: ceil(N/32) panels of [ceil(K/2)][32] pairs (k even in the low half).
inline int64_t PackedPairs(int64_t k, int64_t n) { return (n + 31) / 32 * 32 * ((k + 1) / 2); }

// What a router chooses from.
struct Lattice {
  const float* positions;  // [experts, 3]
  int64_t experts;
  const float* bias = nullptr;      // [experts]; null: 0
  const int32_t* region = nullptr;  // [experts]; null: every expert is a region of its own
};

struct CpuOps {
  const char* name;

  // packed <- B with B[k][n] = w[n * ld + k] (a weight matrix [N, K], used as x W^T).
  void (*pack_transposed)(const bf16* w, int64_t ld, int64_t n, int64_t k, uint32_t* packed);
  // packed <- B with B[k][n] = b[k * ld + n].
  void (*pack)(const bf16* b, int64_t ld, int64_t k, int64_t n, uint32_t* packed);
  // C[M,N] (+)= (A B) * row_scale[m] * col_scale[n]; A: bf16 [M, K] row-major with lda even and K padded with
  // zeros to even; scales may be null (1). product * (row_scale * col_scale), in that order.
  void (*gemm)(const bf16* a, int64_t lda, int64_t m, const uint32_t* packed, int64_t n, int64_t k,
               const float* row_scale, const float* col_scale, bool accumulate, float* c, int64_t ldc);
  // The same where A and B hold integers from -127 to 127 and their sums are below 2^24: exact.
  void (*gemm_codes)(const bf16* a, int64_t lda, int64_t m, const uint32_t* packed, int64_t n, int64_t k,
                     const float* row_scale, const float* col_scale, bool accumulate, float* c, int64_t ldc);
  // C[M,N] (+)= A^T B over `tokens` rows: A [tokens, M], B [tokens, N], both bf16. scratch: GemmTnScratch(M,
  // N) words.
  void (*gemm_tn)(const bf16* a, int64_t lda, int64_t m, const bf16* b, int64_t ldb, int64_t n,
                  int64_t tokens, bool accumulate, float* c, int64_t ldc, uint32_t* scratch);

  // Rows of x to int8 codes held in bf16 (exact) and their scales, as kernels::Ops::quantize.
  void (*quantize)(const float* x, int64_t rows, int64_t cols, bf16* q, float* scale);
  // out = bf16(x * col_scale * row_scale); null scales are 1.
  void (*to_bf16)(const float* x, int64_t rows, int64_t cols, int64_t ldx, const float* row_scale,
                  const float* col_scale, bf16* out, int64_t ldo);
  // Weight rows to ternary / two-bit codes in bf16 and scales (engine/model/quantize.h; two-bit: s/2).
  void (*ternary_rows)(const float* w, int64_t rows, int64_t cols, bf16* codes, float* scale);
  void (*two_bit_rows)(const float* w, int64_t rows, int64_t cols, bf16* codes, float* scale);
  void (*int8_rows)(const float* w, int64_t rows, int64_t cols, bf16* codes, float* scale);

  // h = rmsnorm(x) * g; inv[row] = 1 / rms.
  void (*rms_norm)(const float* x, const float* g, int64_t rows, int64_t d, float* h, float* inv);
  // dx = gradient; dg accumulates.
  void (*rms_norm_grad)(const float* x, const float* g, const float* inv, const float* dh, int64_t rows,
                        int64_t d, float* dx, float* dg);

  // a = up * silu(gate) (and gradients from da).
  void (*swiglu)(const float* gate, const float* up, int64_t ld, int64_t rows, int64_t f, float* a,
                 int64_t lda);
  void (*swiglu_grad)(const float* gate, const float* up, int64_t ld, int64_t rows, int64_t f,
                      const float* da, int64_t ldda, float* dgate, float* dup, int64_t lddg);

  // Chunked PDR for one sequence and the dims [i0, i1) (multiple of 16), T tokens in chunks of <= 16. Rows t
  // of logits p (decay, before b_p is added: log gamma = max(logsigmoid(p + b), floor)), v at v + t * ld, k
  // and q [r] at + t * ldk. state: [r, d] (transposed S) on entry, replaced by the final state; boundary: if
  // not null receives the state before each chunk, [chunks, r, d]. out[t, i] = S_t q_t.
  void (*pdr)(const float* p, const float* b, const float* v, int64_t ld, const float* k, const float* q,
              int64_t ldk, int64_t tokens, int64_t d, int64_t r, float floor, int64_t i0, int64_t i1,
              float* state, float* boundary, float* out, int64_t ldo);
  // Its gradient for the same dims, from dout and zero gradient of the final state. dp, dv written; dk, dq
  // [T, r] and db accumulate (this call's dims only: give each thread its own).
  void (*pdr_grad)(const float* p, const float* b, const float* v, int64_t ld, const float* k, const float* q,
                   int64_t ldk, int64_t tokens, int64_t d, int64_t r, float floor, int64_t i0, int64_t i1,
                   const float* boundary, const float* dout, int64_t ldo, float* dp, float* dv, int64_t lddp,
                   float* dk, float* dq, float* db);

  // Router: z [n,3] in [0,1), experts at positions [e,3]. route[n] the expert of least dist^2 - bias, prob[n]
  // the sum of softmax(-dist^2/temperature) over the experts of its region, mean_prob[e] += probabilities
  // (sum over rows).
  void (*route)(const float* z, const Lattice& lattice, int64_t n, float temperature, int32_t* route,
                float* prob, float* mean_prob);
  // dz from dprob[n] (gradient of prob) and dmean[e] (gradient of each row's probability of e).
  void (*route_grad)(const float* z, const Lattice& lattice, int64_t n, float temperature,
                     const int32_t* route, const float* dprob, const float* dmean, float* dz);

  // logits [rows, vocab] -> loss sum (nats, double) and, in place, gradient (softmax - onehot) * grad_scale.
  // targets < 0 are skipped (gradient 0).
  double (*cross_entropy)(float* logits, const int32_t* targets, int64_t rows, int64_t vocab,
                          float grad_scale);

  // AdamW on n parameters; g is multiplied by grad_scale first. correction1/2 = 1 - beta^t.
  void (*adamw)(float* w, float* m, float* v, const float* g, int64_t n, float lr, float beta1, float beta2,
                float eps, float decay, float correction1, float correction2, float grad_scale);
  double (*sum_squares)(const float* x, int64_t n);
  // x += keep(index) ? o / (1 - rate) : 0, mask from a counter generator; and the same mask applied to a
  // gradient.
  void (*dropout)(const float* o, int64_t n, uint64_t key, uint64_t first_index, float rate, float* x,
                  bool add);
};

inline int64_t GemmTnScratch(int64_t m, int64_t n) { return 256 * (m + n + 64); }

// What the variants of these names need of a CPU: x86-64-v3, x86-64-v4 and more (CMakeLists.txt).
bool SupportsAvx2(const kernels::Cpu& cpu);
bool SupportsAvx512Bf16(const kernels::Cpu& cpu);
bool SupportsAmx(const kernels::Cpu& cpu);

const CpuOps& Ops();  // best for this CPU; OMNI_ISA (kernels/op.h) may lower it
// The table called amx, avx512bf16, avx2 or baseline; null if this CPU cannot run it or there is none of that
// name.
const CpuOps* OpsNamed(std::string_view name);

}  // namespace omni::train
