// Where rows go and what they become: the slow state, the router, the largest logit.
#pragma once

#include "kernels/device/device.cuh"

namespace omni::kernels::device {

// A float's bits as a number that orders as the float does; -0 is 0.
__device__ __forceinline__ unsigned Rising(float x) {
  const unsigned bits = __float_as_uint(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// grid: (d / 128, segments, layers): h of the next layer begins `layer_stride` further.
__global__ void SlowStepKernel(const Segment* segments, int64_t offset, const float* h, int64_t h_stride,
                               int64_t layer_stride, int64_t d, float rate, float* before) {
  LetNextCome();
  const Segment segment = segments[blockIdx.y];
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  AwaitLaunchBefore();
  if (i >= d) return;
  offset += blockIdx.z * d;
  h += blockIdx.z * layer_stride;
  float u = segment.slow[offset + i];
#pragma unroll 1
  for (int64_t row = segment.first_row; row < segment.first_row + segment.count; ++row) {
    if (before != nullptr) before[row * h_stride + i] = u;
    u = fmaf(rate, h[row * h_stride + i] - u, u);
  }
  segment.slow[offset + i] = u;
}

inline constexpr int kRouteThreads = 128;  // three warps for the axes, all for the experts
// Where the row that has seen h and is of this token goes; called by all threads of a block.
__device__ __forceinline__ void RouteRow(const Router& router, const float* h, const int32_t* token,
                                         int32_t* route) {
  OMNI_SHARED(float, z, 3);
  OMNI_SHARED(uint64_t, nearest, kRouteThreads / kWarpLanes);
  const int t = static_cast<int>(threadIdx.x);
  if (Warp() < 3) {
    const float* axis = router.route + Warp() * router.d;
    for (int64_t j = Lane() * kWarpLanes; j < router.d; j += kWarpLanes * kWarpLanes) {
      Prefetch(axis + j);
      Prefetch(h + j);
    }
    float part = 0;
#pragma unroll 32
    for (int64_t j = Lane() % kLanes; j < router.d; j += kLanes) part = fmaf(axis[j], h[j], part);
    const float dot = FixedTotal(part);
    const float fraction = dot - floorf(dot);
    if (Lane() == 0) z[Warp()] = fraction == 1.0f ? 0.0f : fraction;
  }
  if (!OMNI_DEVICE_PLANTED(kPointWithoutBarrier)) __syncthreads();
  const float infinity = __uint_as_float(0x7f800000u);
  // The bits of the least distance above those of the id; nothing below infinity leaves expert 0.
  uint64_t best = static_cast<uint64_t>(Rising(infinity)) << 32;
  for (int64_t e = t; e < router.experts; e += kRouteThreads) {
    float square[3];
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      const float direct = fabsf(z[axis] - router.positions[3 * e + axis]);
      const float other = 1.0f - direct;
      const float shortest = other < direct ? other : direct;
      square[axis] = shortest * shortest;
    }
    float distance = (square[0] + square[1]) + square[2];
    if (router.bias != nullptr) distance = distance - router.bias[e];
    if (distance < infinity) {
      const uint64_t key = static_cast<uint64_t>(Rising(distance)) << 32 | static_cast<uint64_t>(e);
      best = key < best ? key : best;
    }
  }
#pragma unroll
  for (int half = kWarpLanes / 2; half > 0; half /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, best, half);
    best = other < best ? other : best;
  }
  if (Lane() == 0) nearest[Warp()] = best;
  __syncthreads();
  if (t != 0) return;
  for (int warp = 1; warp < kRouteThreads / kWarpLanes; ++warp)
    best = nearest[warp] < best ? nearest[warp] : best;
  int32_t expert = static_cast<int32_t>(best & 0xffffffffu);
  if (router.members != nullptr)
    expert = router.expert_at[expert * router.per_region + router.members[*token]];
  *route = expert;
}

__global__ void __launch_bounds__(kRouteThreads)
    RouteKernel(Router router, const float* seen, int64_t seen_stride, const int32_t* tokens,
                int32_t* routes) {
  LetNextCome();
  const int64_t row = blockIdx.x;
  AwaitLaunchBefore();
  RouteRow(router, seen + row * seen_stride, tokens + row, routes + row);
}

// grid: routers.
__global__ void __launch_bounds__(kRouteThreads)
    RouteAheadKernel(const RouterAhead* routers, const Segment* segment, const int32_t* token,
                     int32_t* routes) {
  LetNextCome();
  const RouterAhead ahead = routers[blockIdx.x];
  AwaitLaunchBefore();
  RouteRow(ahead.router, segment->slow + ahead.slow_offset, token, routes + ahead.to);
}

inline constexpr int kArgMaxThreads = 512;
__global__ void __launch_bounds__(kArgMaxThreads)
    ArgMaxKernel(const float* logits, int64_t stride, int64_t vocab, int32_t* tokens) {
  LetNextCome();
  OMNI_SHARED(uint64_t, warps, kArgMaxThreads / kWarpLanes);
  const int64_t row = blockIdx.x;
  AwaitLaunchBefore();
  const int t = static_cast<int>(threadIdx.x);
  uint64_t best = 0;  // the logit's bits above the inverted id: of equal ones the lowest wins
  for (int64_t i = t; i < vocab; i += kArgMaxThreads) {
    const float l = logits[row * stride + i];
    // NaN counts as -infinity, +infinity as the largest float.
    const float clean = l == l ? (l < 0x1.fffffep+127f ? l : 0x1.fffffep+127f) : __uint_as_float(0xff800000u);
    const uint64_t key =
        static_cast<uint64_t>(Rising(clean)) << 32 | (0xffffffffu - static_cast<unsigned>(i));
    best = key > best ? key : best;
  }
  if (OMNI_DEVICE_PLANTED(kLanesLeaveEarly) && Lane() >= kLanes) return;
#pragma unroll
  for (int half = kWarpLanes / 2; half > 0; half /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, best, half);
    best = other > best ? other : best;
  }
  if (Lane() == 0) warps[Warp()] = best;
  __syncthreads();
  if (t != 0) return;
  for (int warp = 1; warp < kArgMaxThreads / kWarpLanes; ++warp)
    best = warps[warp] > best ? warps[warp] : best;
  tokens[row] = static_cast<int32_t>(0xffffffffu - static_cast<unsigned>(best & 0xffffffffu));
}

}  // namespace omni::kernels::device
