// Integer products. A warp takes one group of rows (five ternary, four two-bit, one int8), or a part of its
// columns; a lane takes 16 bytes of codes at a time and multiplies them by dp4a as they stand or by their
// fields, and the sums of the rows are separated once at the end (kernels/code_sums.h does the same). All
// sums are exact.
#pragma once

#include "kernels/device/device.cuh"

namespace omni::kernels::device {

inline constexpr int kAhead = 4;         // loads of a lane on their way before the first is used
inline constexpr int kAheadDown = 6;     // of an expert's second product, whose rows are 11 008 wide
inline constexpr int kProductWarps = 4;  // of a block
inline constexpr int kTernaryParts = 5, kTwoBitParts = 4;

// x of up to N rows.
template <int N>
struct RowPointers {
  const int8_t* of[N];
};

// One word of codes of each chunk: 4 inputs of 5 rows. sum[k] gets the products of floor(code / 3^k).
template <int N>
__device__ __forceinline__ void AddTernary(unsigned codes, const unsigned (&x)[N],
                                           int (&sum)[N][kTernaryParts]) {
  // Two codes a register, 16 bits each: floor(c / 3) = (85 c + 85) >> 8 for c up to 255.
  unsigned even = codes & 0x00ff00ffu, odd = __byte_perm(codes, 0, 0x4341);
#pragma unroll
  for (int n = 0; n < N; ++n) sum[n][0] = DotUnsigned(codes, x[n], sum[n][0]);
#pragma unroll
  for (int part = 1; part < kTernaryParts; ++part) {
    even = even * 85u + 0x00550055u;
    odd = odd * 85u + 0x00550055u;
    const unsigned third = __byte_perm(even, odd, 0x7351);
#pragma unroll
    for (int n = 0; n < N; ++n) sum[n][part] = DotUnsigned(third, x[n], sum[n][part]);
    even = __byte_perm(even, 0, 0x4341);
    odd = __byte_perm(odd, 0, 0x4341);
  }
}

// sum: the first three codes where they stand, and whole bytes.
template <int N>
__device__ __forceinline__ void AddTwoBit(unsigned codes, const unsigned (&x)[N],
                                          int (&sum)[N][kTwoBitParts]) {
  const unsigned first = codes & 0x03030303u, second = codes & 0x0c0c0c0cu, third = codes & 0x30303030u;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    sum[n][0] = DotUnsigned(first, x[n], sum[n][0]);
    sum[n][1] = DotUnsigned(second, x[n], sum[n][1]);
    sum[n][2] = DotUnsigned(third, x[n], sum[n][2]);
    sum[n][3] = DotUnsigned(codes, x[n], sum[n][3]);
  }
}

template <int N>
__device__ __forceinline__ void AddWord(unsigned codes, const unsigned (&x)[N],
                                        int (&sum)[N][kTernaryParts]) {
  AddTernary<N>(codes, x, sum);
}
template <int N>
__device__ __forceinline__ void AddWord(unsigned codes, const unsigned (&x)[N], int (&sum)[N][kTwoBitParts]) {
  AddTwoBit<N>(codes, x, sum);
}
template <int N>
__device__ __forceinline__ void AddWord(unsigned codes, const unsigned (&x)[N], int (&sum)[N][1]) {
#pragma unroll
  for (int n = 0; n < N; ++n) sum[n][0] = __dp4a(static_cast<int>(codes), static_cast<int>(x[n]), sum[n][0]);
}

// The chunks of 16 bytes first, first + step, ... of `chunks`; chunk(k) is where the k-th lies. Before the
// launch before is over the first of them are on their way to registers, and of one row the others to the
// cache: codes are weights, x is not.
template <int N, int kParts, int kLoads = kAhead, class ChunkAt>
__device__ __forceinline__ void AddChunks(ChunkAt chunk, int first, int step, int64_t count,
                                          const RowPointers<N>& x, int (&sum)[N][kParts]) {
  const int chunks = static_cast<int>(count);
  uint4 codes[kLoads];
  const auto load = [&](int begin) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int k = begin + i * step;
      codes[i] = uint4{0, 0, 0, 0};
      if (k < chunks) codes[i] = __ldcs(reinterpret_cast<const uint4*>(chunk(k)));
    }
  };
  load(first);
  if (N == 1 && kParts == kTernaryParts) {  // whose arithmetic takes as long as memory does
    for (int k = first + kLoads * step; k < chunks; k += step) Prefetch(chunk(k));
  }
  AwaitLaunchBefore();
  for (int begin = first; begin < chunks; begin += step * kLoads) {
    if (begin > first) load(begin);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int k = begin + i * step;
      if (k >= chunks) break;
      uint4 in[N];
#pragma unroll
      for (int n = 0; n < N; ++n) in[n] = *reinterpret_cast<const uint4*>(x.of[n] + 16 * k);
      unsigned word[N];
#pragma unroll
      for (int n = 0; n < N; ++n) word[n] = in[n].x;
      AddWord<N>(codes[i].x, word, sum);
#pragma unroll
      for (int n = 0; n < N; ++n) word[n] = in[n].y;
      AddWord<N>(codes[i].y, word, sum);
#pragma unroll
      for (int n = 0; n < N; ++n) word[n] = in[n].z;
      AddWord<N>(codes[i].z, word, sum);
#pragma unroll
      for (int n = 0; n < N; ++n) word[n] = in[n].w;
      AddWord<N>(codes[i].w, word, sum);
    }
  }
}

// Sums of the rows from those of the parts; offset: the sum of x.
__device__ __forceinline__ void SeparateTrits(int (&sum)[kTernaryParts], int offset) {
#pragma unroll
  for (int i = 0; i + 1 < kTernaryParts; ++i) sum[i] = sum[i] - 3 * sum[i + 1] - offset;
  sum[kTernaryParts - 1] -= offset;
}
__device__ __forceinline__ void SeparateLevels(int (&sum)[kTwoBitParts], int offset) {
  const int last = sum[3] - sum[0] - sum[1] - sum[2];
  sum[0] = 2 * sum[0] - 3 * offset;
  sum[1] = (sum[1] >> 1) - 3 * offset;
  sum[2] = (sum[2] >> 3) - 3 * offset;
  sum[3] = (last >> 5) - 3 * offset;
}

__device__ __forceinline__ void Put(const Output& out, int64_t row, int64_t i, int sum, float x_scale) {
  if (i >= out.rows) return;
  const int64_t at = row * out.stride + i;
  if (out.sums != nullptr) out.sums[at] = sum;
  if (out.y == nullptr) return;
  float y = static_cast<float>(sum) * (x_scale * out.scale[i]);
  if (out.divisor != 0) y = y / out.divisor;
  out.y[at] = out.add ? out.y[at] + y : y;
}

// sum[which], without an array in memory.
template <int kParts>
__device__ __forceinline__ int Chosen(const int (&sum)[kParts], int which) {
  int chosen = sum[0];
#pragma unroll
  for (int k = 1; k < kParts; ++k) chosen = which == k ? sum[k] : chosen;
  return chosen;
}

// Rows first .. of x; past the last one they repeat it.
template <int N>
__device__ __forceinline__ RowPointers<N> Pointers(const Quantized& x, int first, int n) {
  RowPointers<N> rows;
#pragma unroll
  for (int i = 0; i < N; ++i)
    rows.of[i] = x.q + static_cast<int64_t>(first + i < n ? first + i : n - 1) * x.stride;
  return rows;
}

// Products whose groups are split between `split` of the block's warps: their parts meet in shared memory,
// and `put(group of the block, row, sums, which)` is called by one thread for each of a group's sums. N rows,
// kParts sums each.
template <int N, int kParts, class SumsOf, class PutSum>
__device__ __forceinline__ void SplitProduct(int split, SumsOf sums_of, PutSum put) {
  OMNI_SHARED(int, parts, kProductWarps* N* kParts);
  int sum[N][kParts];
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int k = 0; k < kParts; ++k) sum[n][k] = 0;
  }
  sums_of(Warp() / split, Warp() % split, sum);
#pragma unroll
  for (int n = 0; n < N; ++n) {
#pragma unroll
    for (int k = 0; k < kParts; ++k) {
      const int total = WarpSum(sum[n][k]);
      if (Lane() == 0) parts[(Warp() * N + n) * kParts + k] = total;
    }
  }
  if (!OMNI_DEVICE_PLANTED(kPartsWithoutBarrier)) __syncthreads();
  const int groups = kProductWarps / split;
  const int t = static_cast<int>(threadIdx.x);
  for (int at = t; at < groups * N * kParts; at += kProductWarps * kWarpLanes) {
    const int group = at / (N * kParts), n = at / kParts % N;
    int total[kParts];
#pragma unroll
    for (int k = 0; k < kParts; ++k) {
      total[k] = 0;
      const int last = OMNI_DEVICE_PLANTED(kOneWarpTooMany) ? split + 1 : split;
      for (int s = 0; s < last; ++s) total[k] += parts[((group * split + s) * N + n) * kParts + k];
    }
    put(group, n, total, at % kParts);
  }
}

template <int N>
__global__ void __launch_bounds__(kProductWarps* kWarpLanes)
    TwoBitKernel(TwoBitProducts products, Quantized x, int n, int split) {
  LetNextCome();
  const int per_block = kProductWarps / split, first_row = static_cast<int>(blockIdx.y) * N;
  const RowPointers<N> rows = Pointers<N>(x, first_row, n);
  const int64_t first_group = static_cast<int64_t>(blockIdx.x) * per_block;
  // Which matrix a group of the launch is of, and which group of it.
  const auto locate = [&](int64_t group, int64_t* of) {
    int p = 0;
    while (p < products.count && group >= products.of[p].m.num_groups) group -= products.of[p++].m.num_groups;
    *of = group;
    return p;
  };
  SplitProduct<N, kTwoBitParts>(
      split,
      [&](int group, int part, int(&sum)[N][kTwoBitParts]) {
        int64_t g;
        const int p = locate(first_group + group, &g);
        if (p == products.count) return AwaitLaunchBefore();
        const TwoBitMatrix& m = products.of[p].m;
        if (Lane() == 0) Prefetch(products.of[p].out.scale + g * kTwoBitRows);
        const uint8_t* base = m.base + g * m.num_blocks * kTernaryBlockBytes;
        AddChunks<N>([&](int64_t k) { return base + 16 * k; }, part * kWarpLanes + Lane(), split * kWarpLanes,
                     4 * m.num_blocks, rows, sum);
      },
      [&](int group, int row, int(&sum)[kTwoBitParts], int which) {
        int64_t g;
        const int p = locate(first_group + group, &g);
        if (p == products.count || first_row + row >= n) return;
        SeparateLevels(sum, x.sum[first_row + row]);
        Put(products.of[p].out, first_row + row, g * kTwoBitRows + which, Chosen(sum, which),
            x.scale[first_row + row]);
      });
}

template <int N>
__global__ void __launch_bounds__(kProductWarps* kWarpLanes)
    TernaryKernel(TernaryMatrix m, Quantized x, int n, Output out, int split) {
  LetNextCome();
  const int per_block = kProductWarps / split, first_row = static_cast<int>(blockIdx.y) * N;
  const RowPointers<N> rows = Pointers<N>(x, first_row, n);
  const int64_t first_group = static_cast<int64_t>(blockIdx.x) * per_block;
  SplitProduct<N, kTernaryParts>(
      split,
      [&](int group, int part, int(&sum)[N][kTernaryParts]) {
        const int64_t g = first_group + group;
        if (g >= m.num_groups) return AwaitLaunchBefore();
        AddChunks<N>(
            [&](int64_t k) {
              const uint8_t* column = m.table != nullptr ? m.table[k / 4] : m.base + k / 4 * m.block_stride;
              return column + g * m.group_stride + k % 4 * 16;
            },
            part * kWarpLanes + Lane(), split * kWarpLanes, 4 * m.num_blocks, rows, sum);
      },
      [&](int group, int row, int(&sum)[kTernaryParts], int which) {
        const int64_t g = first_group + group;
        if (g >= m.num_groups || first_row + row >= n) return;
        SeparateTrits(sum, x.sum[first_row + row]);
        Put(out, first_row + row, g * kTernaryRows + which, Chosen(sum, which), x.scale[first_row + row]);
      });
}

template <int N>
__global__ void __launch_bounds__(kProductWarps* kWarpLanes)
    Int8Kernel(Int8Matrix m, Quantized x, int n, Output out) {
  LetNextCome();
  const int first_row = static_cast<int>(blockIdx.y) * N;
  const RowPointers<N> rows = Pointers<N>(x, first_row, n);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kProductWarps + Warp();
  SplitProduct<N, 1>(
      1,
      [&](int, int, int(&sum)[N][1]) {
        if (i >= m.rows) return AwaitLaunchBefore();
        const uint8_t* base = reinterpret_cast<const uint8_t*>(m.base) + i * m.stride;
        AddChunks<N>([&](int64_t k) { return base + 16 * k; }, Lane(), kWarpLanes, m.cols_padded / 16, rows,
                     sum);
      },
      [&](int group, int row, int(&sum)[1], int) {
        const int64_t g = static_cast<int64_t>(blockIdx.x) * kProductWarps + group;
        if (g >= m.rows || first_row + row >= n) return;
        Put(out, first_row + row, g, sum[0], x.scale[first_row + row]);
      });
}

}  // namespace omni::kernels::device
