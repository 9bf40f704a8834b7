// Rows of floats: the embedding, norms, quantisation. One block a row where a whole row must be seen.
#pragma once

#include "kernels/device/device.cuh"

namespace omni::kernels::device {

__global__ void EmbedKernel(Int8Matrix embedding, const float* scale, const int32_t* tokens, int64_t d,
                            float* x, int64_t x_stride) {
  const int64_t row = blockIdx.y, i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= d) return;
  const int64_t token = tokens[row];
  x[row * x_stride + i] = static_cast<float>(embedding.base[token * embedding.stride + i]) * scale[token];
}

__global__ void AddRowsKernel(float* x, const float* y, int64_t stride, int64_t d) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, at = blockIdx.y * stride + i;
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

__global__ void NormQuantizeKernel(const float* x, int64_t x_stride, const float* gain, int64_t d,
                                   int64_t d_pad, float* h, int64_t h_stride, Quantized q,
                                   uint32_t* clear_bits, int32_t* clear_sums) {
  OMNI_DYNAMIC_SHARED(float, value);  // d
  OMNI_SHARED(float, inverse, 1);
  OMNI_SHARED(unsigned, largest, 1);
  OMNI_SHARED(int, total, 1);
  const int64_t row = blockIdx.x;
  const int t = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  for (int64_t i = t; i < d; i += step) value[i] = x[row * x_stride + i];
  if (t == 0) {
    if (!OMNI_DEVICE_PLANTED(kUnsetTotal)) total[0] = 0;
    largest[0] = 0;
    if (clear_bits != nullptr) clear_bits[row] = 0;
    if (clear_sums != nullptr) clear_sums[row] = 0;
  }
  if (!OMNI_DEVICE_PLANTED(kNormWithoutBarrier)) __syncthreads();
  if (gain != nullptr) {
    if (t < kWarpLanes) {  // both halves of the warp do the same
      float part = 0;
#pragma unroll 8
      for (int64_t j = Lane() % kLanes; j < d; j += kLanes) part = fmaf(value[j], value[j], part);
      const float mean = FixedTotal(part) / static_cast<float>(d);
      if (t == 0) inverse[0] = 1.0f / sqrtf(mean + kRmsEpsilon);
    }
    __syncthreads();
  }
  unsigned bits = 0;
  const float inv = gain != nullptr ? static_cast<float>(inverse[0]) : 1.0f;
  for (int64_t i = t; i < d; i += step) {
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
  for (int64_t i = t; i < d_pad; i += step) {
    const int value_q = i < d ? QuantizedOf(value[i], s) : 0;
    q.q[row * q.stride + i] = static_cast<int8_t>(value_q);
    sum += value_q;
  }
  sum = WarpSum(sum);
  if (Lane() == 0) atomicAdd(&total[0], sum);
  if (Warp() == 0 || !OMNI_DEVICE_PLANTED(kBarrierInBranch)) __syncthreads();
  if (t == 0) {
    q.scale[row] = s;
    q.sum[row] = total[0];
  }
}

// grid: (columns / 1024, n), 256 threads of four elements each.
inline constexpr int kQuantizeThreads = 256, kQuantizeEach = 4;
__global__ void QuantizeKnownKernel(const float* x, int64_t x_stride, int64_t n_padded,
                                    const uint32_t* largest, Quantized q) {
  const int64_t row = blockIdx.y;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kQuantizeEach;
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
