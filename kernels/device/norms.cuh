// Rows of floats: the embedding, norms, quantisation. One block a row where a whole row must be seen.
#pragma once

#include "kernels/device/device.cuh"

namespace omni::kernels::device {

__global__ void EmbedKernel(Int8Matrix embedding, const float* scale, const int32_t* tokens, int64_t d,
                            float* x, int64_t x_stride) {
  LetNextCome();
  const int64_t row = blockIdx.y, i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  AwaitLaunchBefore();
  if (i >= d) return;
  const int64_t token = tokens[row];
  x[row * x_stride + i] = static_cast<float>(embedding.base[token * embedding.stride + i]) * scale[token];
}

__global__ void AddRowsKernel(float* x, const float* y, int64_t stride, int64_t d) {
  LetNextCome();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, at = blockIdx.y * stride + i;
  AwaitLaunchBefore();
  if (i < d) x[at] = x[at] + y[at];
}

// The largest magnitude of all threads' `bits` into *largest, which holds 0 since before the last barrier.
template <class Largest>
__device__ __forceinline__ void BlockLargest(unsigned bits, Largest& largest) {
  bits = WarpMax(bits);
  if (OMNI_DEVICE_PLANTED(kPlainMaximum)) {
    if (Lane() == 0 && bits > largest[0]) largest[0] = bits;
  } else if (Lane() == 0) {
    atomicMax(&largest[0], bits);
  }
}

// What the kernels of a norm share. Before a row's first barrier, by its first thread:
template <class Largest, class Total>
__device__ __forceinline__ void ClearRow(int64_t row, Largest& largest, Total& total, uint32_t* clear_bits,
                                         int32_t* clear_sums) {
  if (threadIdx.x != 0) return;
  if (!OMNI_DEVICE_PLANTED(kUnsetTotal)) total[0] = 0;
  largest[0] = 0;
  if (clear_bits != nullptr) clear_bits[row] = 0;
  if (clear_sums != nullptr) clear_sums[row] = 0;
}
// And at its end, by all threads: sum is of the elements that a thread has quantised.
template <class Total>
__device__ __forceinline__ void PutScaleAndSum(const Quantized& q, int64_t row, float scale, int sum,
                                               Total& total) {
  sum = WarpSum(sum);
  if (Lane() == 0) atomicAdd(&total[0], sum);
  if (Warp() == 0 || !OMNI_DEVICE_PLANTED(kBarrierInBranch)) __syncthreads();
  if (threadIdx.x != 0) return;
  q.scale[row] = scale;
  q.sum[row] = total[0];
}
// Chains of additions are what a norm takes, and their values are read kNormChain at a time, ahead of their
// turn. value: elements, and zeros up to `padded`, a multiple of kNormPadding.
inline constexpr int kNormChain = 8, kNormPadding = kNormChain * static_cast<int>(kLanes);
template <class Values>
__device__ __forceinline__ float InverseRootMeanSquare(const Values& value, int d, int padded) {
  const int lane = Lane() % static_cast<int>(kLanes);  // both halves of the warp do the same
  float part = 0, next[kNormChain];
#pragma unroll
  for (int k = 0; k < kNormChain; ++k) next[k] = value[lane + k * static_cast<int>(kLanes)];
#pragma unroll 2
  for (int at = kNormPadding; at <= padded; at += kNormPadding) {
    float now[kNormChain];
#pragma unroll
    for (int k = 0; k < kNormChain; ++k) {
      now[k] = next[k];
      if (at < padded) next[k] = value[at + lane + k * static_cast<int>(kLanes)];
    }
#pragma unroll
    for (int k = 0; k < kNormChain; ++k) part = fmaf(now[k], now[k], part);
  }
  const float mean = FixedTotal(part) / static_cast<float>(d);
  return 1.0f / sqrtf(mean + kRmsEpsilon);
}

// Rows whose elements lie four by four: d, d_pad and strides are multiples of four. A block is small, so that
// it finds room beside the launch before, and so is its code, which a single block finds in no cache: kEach
// times four elements a thread go through shared memory.
// grid: n; dynamic shared memory: d floats, rounded up to kNormPadding.
inline constexpr int kFoursThreads = 256, kFours = 4, kFoursOfMany = 12;
template <int kEach>
__global__ void __launch_bounds__(kFoursThreads, kEach <= kFours ? 6 : 1)
    NormQuantizeFoursKernel(const float* x, int64_t x_stride, const float* gain, int d, int d_pad, float* h,
                            int64_t h_stride, Quantized q, uint32_t* clear_bits, int32_t* clear_sums) {
  LetNextCome();
  OMNI_DYNAMIC_SHARED(float, value);
  OMNI_SHARED(float, inverse, 1);
  OMNI_SHARED(unsigned, largest, 1);
  OMNI_SHARED(int, total, 1);
  constexpr int kStep = 4 * kFoursThreads;
  const int64_t row = blockIdx.x;
  const int t = static_cast<int>(threadIdx.x), first = 4 * t;
  const int padded = (d + kNormPadding - 1) / kNormPadding * kNormPadding;
  if (gain != nullptr) {
    for (int i = first; i < d; i += kStep) Prefetch(gain + i);
  }
  AwaitLaunchBefore();
  {
    float4 mine[kEach];
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int i = first + e * kStep;
      mine[e] = i < d ? *reinterpret_cast<const float4*>(x + row * x_stride + i) : float4{0, 0, 0, 0};
    }
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int i = first + e * kStep;
      if (i >= padded) continue;
      value[i] = mine[e].x, value[i + 1] = mine[e].y, value[i + 2] = mine[e].z, value[i + 3] = mine[e].w;
    }
  }
  ClearRow(row, largest, total, clear_bits, clear_sums);
  float4 weight[kEach];  // on their way while the chains are added up
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int i = first + e * kStep;
    weight[e] = gain != nullptr && i < d ? *reinterpret_cast<const float4*>(gain + i) : float4{1, 1, 1, 1};
  }
  if (!OMNI_DEVICE_PLANTED(kNormWithoutBarrier)) __syncthreads();
  if (gain != nullptr) {
    if (t < kWarpLanes) {
      const float inv = InverseRootMeanSquare(value, d, padded);
      if (t == 0) inverse[0] = inv;
    }
    __syncthreads();
  }
  const float inv = gain != nullptr ? static_cast<float>(inverse[0]) : 1.0f;
  unsigned bits = 0;
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int i = first + e * kStep;
    if (i >= d) continue;
    float4 v{value[i], value[i + 1], value[i + 2], value[i + 3]};
    if (gain != nullptr) {
      v = {(v.x * inv) * weight[e].x, (v.y * inv) * weight[e].y, (v.z * inv) * weight[e].z,
           (v.w * inv) * weight[e].w};
      value[i] = v.x, value[i + 1] = v.y, value[i + 2] = v.z, value[i + 3] = v.w;
    }
    if (h != nullptr) *reinterpret_cast<float4*>(h + row * h_stride + i) = v;
    const unsigned of[4] = {MagnitudeBits(v.x), MagnitudeBits(v.y), MagnitudeBits(v.z), MagnitudeBits(v.w)};
#pragma unroll
    for (int k = 0; k < 4; ++k) bits = of[k] > bits ? of[k] : bits;
  }
  if (q.q == nullptr) return;
  BlockLargest(bits, largest);
  __syncthreads();
  const float s = __uint_as_float(largest[0]) / kInt8Max;
  int sum = 0;
#pragma unroll 1
  for (int i = first; i < d_pad; i += kStep) {
    unsigned packed = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int quantized = i < d ? QuantizedOf(value[i + k], s) : 0;
      sum += quantized;
      packed |= (static_cast<unsigned>(quantized) & 0xffu) << (8 * k);
    }
    *reinterpret_cast<uint32_t*>(q.q + row * q.stride + i) = packed;
  }
  PutScaleAndSum(q, row, s, sum, total);
}

// Any other rows. grid: n; dynamic shared memory: as above.
inline constexpr int kNormThreads = 512;
__global__ void __launch_bounds__(kNormThreads)
    NormQuantizeKernel(const float* x, int64_t x_stride, const float* gain, int d, int d_pad, float* h,
                       int64_t h_stride, Quantized q, uint32_t* clear_bits, int32_t* clear_sums) {
  LetNextCome();
  OMNI_DYNAMIC_SHARED(float, value);
  OMNI_SHARED(float, inverse, 1);
  OMNI_SHARED(unsigned, largest, 1);
  OMNI_SHARED(int, total, 1);
  const int64_t row = blockIdx.x;
  const int t = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  const int padded = (d + kNormPadding - 1) / kNormPadding * kNormPadding;
  AwaitLaunchBefore();
#pragma unroll 4
  for (int i = t; i < padded; i += step) value[i] = i < d ? x[row * x_stride + i] : 0.0f;
  ClearRow(row, largest, total, clear_bits, clear_sums);
  __syncthreads();
  if (gain != nullptr) {
    if (t < kWarpLanes) {
      const float inv = InverseRootMeanSquare(value, d, padded);
      if (t == 0) inverse[0] = inv;
    }
    __syncthreads();
  }
  unsigned bits = 0;
  const float inv = gain != nullptr ? static_cast<float>(inverse[0]) : 1.0f;
  for (int i = t; i < d; i += step) {
    float v = value[i];
    if (gain != nullptr) v = (v * inv) * gain[i];
    value[i] = v;
    if (h != nullptr) h[row * h_stride + i] = v;
    const unsigned magnitude = MagnitudeBits(v);
    bits = magnitude > bits ? magnitude : bits;
  }
  if (q.q == nullptr) return;
  BlockLargest(bits, largest);
  __syncthreads();
  const float s = __uint_as_float(largest[0]) / kInt8Max;
  int sum = 0;
  for (int i = t; i < d_pad; i += step) {
    const int value_q = i < d ? QuantizedOf(value[i], s) : 0;
    q.q[row * q.stride + i] = static_cast<int8_t>(value_q);
    sum += value_q;
  }
  PutScaleAndSum(q, row, s, sum, total);
}

// Blocks take turns at pieces of kGatherUnit times 16 bytes of an item; kGatherEach loads of a thread are on
// their way at once, since a link's delay is long.
inline constexpr int kGatherThreads = 256, kGatherEach = 4, kGatherBlocks = 64;
__global__ void __launch_bounds__(kGatherThreads)
    GatherKernel(const uint8_t* const* from, int64_t count, int64_t bytes, uint8_t* to, int64_t to_stride) {
  LetNextCome();
  constexpr int64_t kGatherUnit = kGatherThreads * kGatherEach;
  const int64_t words = bytes / static_cast<int64_t>(sizeof(uint4));
  const int64_t units = (words + kGatherUnit - 1) / kGatherUnit;
  AwaitLaunchBefore();
  for (int64_t unit = blockIdx.x; unit < count * units; unit += gridDim.x) {
    const int64_t item = unit / units, first = unit % units * kGatherUnit + threadIdx.x;
    const uint4* source = reinterpret_cast<const uint4*>(from[item]);
    uint4* target = reinterpret_cast<uint4*>(to + item * to_stride);
    uint4 word[kGatherEach];
#pragma unroll
    for (int k = 0; k < kGatherEach; ++k) {
      if (first + k * kGatherThreads < words) word[k] = __ldcs(source + first + k * kGatherThreads);
    }
#pragma unroll
    for (int k = 0; k < kGatherEach; ++k) {
      if (first + k * kGatherThreads < words) target[first + k * kGatherThreads] = word[k];
    }
  }
}

// grid: (columns / 1024, n), 256 threads of four elements each.
inline constexpr int kQuantizeThreads = 256, kQuantizeEach = 4;
__global__ void QuantizeKnownKernel(const float* x, int64_t x_stride, int64_t n_padded,
                                    const uint32_t* largest, Quantized q) {
  LetNextCome();
  const int64_t row = blockIdx.y;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kQuantizeEach;
  AwaitLaunchBefore();
  const float s = __uint_as_float(largest[row]) / kInt8Max;
  int sum = 0;
  if (i < n_padded) {
    unsigned packed = 0;
#pragma unroll
    for (int k = 0; k < kQuantizeEach; ++k) {
      const int value = QuantizedOf(x[row * x_stride + i + k], s);
      sum += value;
      packed |= (static_cast<unsigned>(value) & 0xffu) << (8 * k);
    }
    *reinterpret_cast<uint32_t*>(q.q + row * q.stride + i) = packed;
  }
  sum = WarpSum(sum);
  if (Lane() == 0 && sum != 0) atomicAdd(q.sum + row, sum);
  if (i == 0) q.scale[row] = s;
}

}  // namespace omni::kernels::device
