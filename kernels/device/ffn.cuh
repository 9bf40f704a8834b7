// SwiGLU layers: gate and up with the activation behind them, of the shared FFN and of experts' tiles, and
// down from tiles. A batch's rows go each to the expert that `routes` names; a block works for the first row
// of its expert, and takes the others of the same expert along.
#pragma once

#include "kernels/device/products.cuh"

namespace omni::kernels::device {

inline constexpr int kTileRowGroups = 26;  // of gate and up, interleaved
inline constexpr int kTileWidth = 64;      // neurons
// Ten interleaved rows, two groups, are five neurons: what a block of two warps makes.
inline constexpr int kPairGroups = 2, kPairNeurons = 5, kPairs = kTileRowGroups / kPairGroups;
// So many blocks of one row are to fit on a multiprocessor: a large device then has all of an expert's there
// at once, and no few of them come after all others.
inline constexpr int kPairBlocks = 18, kDownBlocks = 7;

__device__ __forceinline__ float SwigluOf(int gate, int up, float gate_scale, float up_scale, float x_scale) {
  const float g = static_cast<float>(gate) * (x_scale * gate_scale);
  const float u = static_cast<float>(up) * (x_scale * up_scale);
  return u * SiluOf(g);
}

// One atomic for many: most values are below what is there already.
__device__ __forceinline__ void RaiseLargest(uint32_t* largest, float a) {
  const unsigned bits = MagnitudeBits(a);
  if (bits > *static_cast<volatile uint32_t*>(largest)) atomicMax(largest, bits);
}

// Rows of one expert: the next N of those with the route of row `leader`, from row `from` on; `next` is where
// to go on, n at the end. Missing ones repeat the leader and have row -1.
template <int N>
struct ExpertRows {
  int row[N];
  int next;
};
template <int N>
__device__ __forceinline__ ExpertRows<N> RowsOf(const int32_t* routes, int leader, int from, int n) {
  ExpertRows<N> rows;
  int at = from;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    while (at < n && routes[at] != routes[leader]) ++at;
    rows.row[i] = at < n ? at++ : -1;
  }
  while (at < n && routes[at] != routes[leader]) ++at;
  rows.next = at;
  return rows;
}
// Whether the block of row `leader` has work.
__device__ __forceinline__ bool Leads(const Experts& experts, const int32_t* routes, int leader) {
  if (experts.only >= 0 && routes[leader] != experts.only) return false;
  for (int row = 0; row < leader; ++row) {
    if (routes[row] == routes[leader]) return false;
  }
  return true;
}
__device__ __forceinline__ const uint8_t* const* TilesOf(const Experts& experts, int32_t expert) {
  return experts.table + (experts.only >= 0 ? 0 : expert * experts.stride);
}
template <int N>
__device__ __forceinline__ RowPointers<N> PointersOf(const Quantized& x, const ExpertRows<N>& rows,
                                                     int leader) {
  RowPointers<N> pointers;
#pragma unroll
  for (int i = 0; i < N; ++i)
    pointers.of[i] = x.q + static_cast<int64_t>(rows.row[i] < 0 ? leader : rows.row[i]) * x.stride;
  return pointers;
}

// grid: (tiles * kPairs, n), 64 threads.
template <int N>
__global__ void __launch_bounds__(kPairGroups* kWarpLanes, N == 1 ? kPairBlocks : 1)
    ExpertGateUpKernel(Experts experts, const int32_t* routes, Quantized x, int n, float* a, int64_t a_stride,
                       uint32_t* largest) {
  LetNextCome();
  OMNI_SHARED(int, sums, kPairGroups* N* kTernaryParts);
  const int leader = static_cast<int>(blockIdx.y);
  if (!experts.known) AwaitLaunchBefore();
  if (!Leads(experts, routes, leader)) return AwaitLaunchBefore();
  const int tile = static_cast<int>(blockIdx.x) / kPairs, pair = static_cast<int>(blockIdx.x) % kPairs;
  const uint8_t* bytes = TilesOf(experts, routes[leader])[tile];
  const float* gate_scale = reinterpret_cast<const float*>(bytes + experts.gate_scale_offset);
  const float* up_scale = reinterpret_cast<const float*>(bytes + experts.up_scale_offset);
  if (threadIdx.x < 2) {
    const float* scales = threadIdx.x == 0 ? gate_scale : up_scale;
    Prefetch(scales + pair * kPairNeurons);
  }
  const uint8_t* group = bytes + (pair * kPairGroups + Warp()) * experts.d_pad;
  for (int from = leader; from < n;) {
    const ExpertRows<N> rows = RowsOf<N>(routes, leader, from, n);
    from = rows.next;
    int sum[N][kTernaryParts];
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int k = 0; k < kTernaryParts; ++k) sum[i][k] = 0;
    }
    AddChunks<N>([&](int64_t k) { return group + 16 * k; }, Lane(), kWarpLanes, experts.d_pad / 16,
                 PointersOf<N>(x, rows, leader), sum);
#pragma unroll
    for (int i = 0; i < N; ++i) {
#pragma unroll
      for (int k = 0; k < kTernaryParts; ++k) sum[i][k] = WarpSum(sum[i][k]);
      SeparateTrits(sum[i], x.sum[rows.row[i] < 0 ? leader : rows.row[i]]);
#pragma unroll
      for (int k = 0; k < kTernaryParts; ++k) {
        if (Lane() == k) sums[(i * kPairGroups + Warp()) * kTernaryParts + k] = sum[i][k];
      }
    }
    if (!OMNI_DEVICE_PLANTED(kGateWithoutBarrier)) __syncthreads();
    const int t = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int neuron = pair * kPairNeurons + t;
      if (t < kPairNeurons && neuron < kTileWidth && rows.row[i] >= 0) {
        const int at = i * kPairGroups * kTernaryParts + 2 * t;
        const int64_t row = rows.row[i];
        const float value =
            SwigluOf(sums[at], sums[at + 1], gate_scale[neuron], up_scale[neuron], x.scale[row]);
        a[row * a_stride + tile * kTileWidth + neuron] = value;
        RaiseLargest(largest + row, value);
      }
    }
    if (!OMNI_DEVICE_PLANTED(kNextRowsWithoutBarrier)) __syncthreads();
  }
}

// grid: (groups of five outputs, n), kProductWarps warps that share the tiles.
template <int N>
__global__ void __launch_bounds__(kProductWarps* kWarpLanes, N == 1 ? kDownBlocks : 1)
    ExpertDownKernel(Experts experts, const int32_t* routes, Quantized a, int n, float* x, int64_t x_stride) {
  LetNextCome();
  const int leader = static_cast<int>(blockIdx.y);
  if (!experts.known) AwaitLaunchBefore();
  if (!Leads(experts, routes, leader)) return AwaitLaunchBefore();
  const uint8_t* const* tiles = TilesOf(experts, routes[leader]);
  const int64_t g = blockIdx.x, offset = experts.down_offset + g * kTernaryBlockBytes;
  for (int from = leader; from < n;) {
    const ExpertRows<N> rows = RowsOf<N>(routes, leader, from, n);
    from = rows.next;
    SplitProduct<N, kTernaryParts>(
        kProductWarps,
        [&](int, int part, int(&sum)[N][kTernaryParts]) {
          AddChunks<N, kTernaryParts, N == 1 ? kAheadDown : kAhead>(
              [&](int64_t k) { return tiles[k / 4] + offset + k % 4 * 16; }, part * kWarpLanes + Lane(),
              kProductWarps * kWarpLanes, 4 * experts.tiles, PointersOf<N>(a, rows, leader), sum);
        },
        [&](int, int i, int(&sum)[kTernaryParts], int which) {
          const int64_t row = Chosen(rows.row, i), at = g * kTernaryRows + which;
          if (row < 0 || at >= experts.d) return;
          SeparateTrits(sum, a.sum[row]);
          const float y = static_cast<float>(Chosen(sum, which)) * (a.scale[row] * 1.0f);
          x[row * x_stride + at] = x[row * x_stride + at] + y;
        });
    __syncthreads();
  }
}

// Group g of gate and of up, four neurons, by two warps. grid: (groups, n / N).
template <int N>
__global__ void __launch_bounds__(kPairGroups* kWarpLanes)
    GateUpKernel(TwoBitMatrix gate, TwoBitMatrix up, const float* gate_scale, const float* up_scale,
                 Quantized x, int n, int64_t f, float* a, int64_t a_stride, uint32_t* largest) {
  LetNextCome();
  OMNI_SHARED(int, sums, kPairGroups* N* kTwoBitParts);
  const int first_row = static_cast<int>(blockIdx.y) * N;
  const int64_t g = blockIdx.x;
  const uint8_t* base = (Warp() == 0 ? gate.base : up.base) + g * gate.num_blocks * kTernaryBlockBytes;
  if (Lane() == 0) Prefetch((Warp() == 0 ? gate_scale : up_scale) + g * kTwoBitRows);
  int sum[N][kTwoBitParts];
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int k = 0; k < kTwoBitParts; ++k) sum[i][k] = 0;
  }
  AddChunks<N>([&](int64_t k) { return base + 16 * k; }, Lane(), kWarpLanes, 4 * gate.num_blocks,
               Pointers<N>(x, first_row, n), sum);
#pragma unroll
  for (int i = 0; i < N; ++i) {
#pragma unroll
    for (int k = 0; k < kTwoBitParts; ++k) sum[i][k] = WarpSum(sum[i][k]);
    SeparateLevels(sum[i], x.sum[first_row + i < n ? first_row + i : n - 1]);
#pragma unroll
    for (int k = 0; k < kTwoBitParts; ++k) {
      if (Lane() == k) sums[(Warp() * N + i) * kTwoBitParts + k] = sum[i][k];
    }
  }
  __syncthreads();
  const int t = static_cast<int>(threadIdx.x);
  const int i = t / kTwoBitParts, k = t % kTwoBitParts;
  const int64_t neuron = g * kTwoBitRows + k, row = first_row + i;
  if (i < N && row < n && neuron < f) {
    const float value = SwigluOf(sums[i * kTwoBitParts + k], sums[(N + i) * kTwoBitParts + k],
                                 gate_scale[neuron], up_scale[neuron], x.scale[row]);
    a[row * a_stride + neuron] = value;
    RaiseLargest(largest + row, value);
  }
}

}  // namespace omni::kernels::device
