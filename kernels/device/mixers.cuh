// The two mixers' own parts: the recurrence's state, and windowed attention over the fp16 ring.
#pragma once

#include "kernels/device/device.cuh"

namespace omni::kernels::device {

// Half a warp takes a row of S: lane l holds columns l, l + 16, ..., which is where the fixed shape has them,
// in kHeld registers (in memory if that is 0). grid: (rows / 16, stretches), 256 threads.
inline constexpr int kPdrThreads = 256;
template <int kHeld>
__global__ void PdrStepKernel(PdrInputs in, const Segment* segments, const Stretch* stretches, float* out,
                              int64_t out_stride) {
  LetNextCome();
  const Stretch stretch = stretches[blockIdx.y];
  const int lane = Lane() % kLanes;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kPdrThreads / kLanes) + threadIdx.x / kLanes;
  const bool is_row = i < in.d;
  float* S = segments[stretch.segment].pdr + in.offset + (is_row ? i : 0) * in.r;
  float held[kHeld > 0 ? kHeld : 1];
  OMNI_SHARED(float, shared_kq, kHeld > 0 ? 2 * kHeld * static_cast<int>(kLanes) : 1);
  constexpr int kSharedQ = kHeld * static_cast<int>(kLanes);  // where q begins there
  if (!in.early) AwaitLaunchBefore();
  if (is_row && lane == 0) Prefetch(in.bias + i);
#pragma unroll
  for (int e = 0; e < kHeld; ++e) {
    const int64_t j = lane + kLanes * e;
    held[e] = is_row && j < in.r ? S[j] : 0.0f;
  }
  AwaitLaunchBefore();
  for (int t = 0; t < stretch.count; ++t) {
    const int64_t row = stretch.first_row + t;
    const float* k = in.k + row * in.k_stride;
    const float* q = in.q + row * in.k_stride;
    float part = 0;
    const float v = is_row ? in.v[row * in.stride + i] : 0.0f;
    const float p = is_row ? in.p[row * in.stride + i] : 0.0f;
    if (kHeld > 0) {
      if (t > 0) __syncthreads();
      for (int j = static_cast<int>(threadIdx.x); j < in.r; j += kPdrThreads) {
        shared_kq[j] = k[j];
        shared_kq[kSharedQ + j] = q[j];
      }
      __syncthreads();
    }
    if (is_row) {
      const float s = SigmoidOf(p + in.bias[i]);
      const float gamma = in.floor > s ? in.floor : s;
      if (kHeld > 0) {
#pragma unroll
        for (int e = 0; e < kHeld; ++e) {
          const int64_t j = lane + kLanes * e;
          if (j < in.r) {
            held[e] = gamma * held[e] + v * shared_kq[j];
            part = fmaf(held[e], shared_kq[kSharedQ + j], part);
          }
        }
      } else {
        for (int64_t j = lane; j < in.r; j += kLanes) {
          const float s_j = gamma * S[j] + v * k[j];
          S[j] = s_j;
          part = fmaf(s_j, q[j], part);
        }
      }
    }
    const float total = FixedTotal(part);
    if (is_row && lane == 0) out[row * out_stride + i] = total;
  }
#pragma unroll
  for (int e = 0; e < kHeld; ++e) {
    const int64_t j = lane + kLanes * e;
    if (is_row && j < in.r) S[j] = held[e];
  }
}

// One block a stretch: seldom, and small beside 8192 tokens.
__global__ void PdrNormalizeKernel(PdrInputs in, const Segment* segments, const Stretch* stretches,
                                   float* norms) {
  LetNextCome();
  OMNI_SHARED(float, norm, 1);
  AwaitLaunchBefore();
  const Stretch stretch = stretches[blockIdx.x];
  if (stretch.normalize == 0) return;
  float* S = segments[stretch.segment].pdr + in.offset;
  float* of_rows = norms + static_cast<int64_t>(blockIdx.x) * in.d;
  const int halves = static_cast<int>(blockDim.x) / kLanes, lane = Lane() % kLanes;
  for (int64_t first = 0; first < in.d; first += halves) {
    const int64_t i = first + threadIdx.x / kLanes;
    float part = 0;
    for (int64_t j = lane; i < in.d && j < in.r; j += kLanes)
      part = fmaf(S[i * in.r + j], S[i * in.r + j], part);
    part = FixedTotal(part);
    if (i < in.d && lane == 0) of_rows[i] = part;
  }
  __syncthreads();
  if (Warp() == 0) {
    float part = 0;
    for (int64_t j = lane; j < in.d; j += kLanes) part = fmaf(of_rows[j], 1.0f, part);
    part = FixedTotal(part);
    if (threadIdx.x == 0) norm[0] = sqrtf(part);
  }
  __syncthreads();
  const float limit = sqrtf(static_cast<float>(in.d * in.r)), is = norm[0];
  if (!(is > limit)) return;
  const float factor = limit / is;
  for (int64_t j = threadIdx.x; j < in.d * in.r; j += blockDim.x) S[j] = S[j] * factor;
}

// A block a head: of q, rotated where it is; of k, rotated, and of v, into this batch's own keys and values.
// grid: (heads + 2 * kv_heads, n).
__global__ void RotateRowsKernel(Attention a) {
  LetNextCome();
  const int64_t row = blockIdx.y, half = a.h / 2, width = a.kv_heads * a.h;
  const int head = static_cast<int>(blockIdx.x), heads = static_cast<int>(a.heads),
            kv_heads = static_cast<int>(a.kv_heads);
  const int kv_head = (head - heads) % kv_heads;
  const float* cos = a.cos + row * half;
  const float* sin = a.sin + row * half;
  AwaitLaunchBefore();
  if (head >= a.heads + a.kv_heads) {
    for (int64_t i = threadIdx.x; i < a.h; i += blockDim.x)
      a.values[row * width + kv_head * a.h + i] = HalfOf(a.v[row * a.kv_stride + kv_head * a.h + i]);
    return;
  }
  if (head < a.heads && threadIdx.x == 0) a.largest[row * a.heads + head] = 0;
  float* x = a.q + row * a.stride + head * a.h;
  const float* from = head < a.heads ? x : a.k + row * a.kv_stride + kv_head * a.h;
  uint16_t* key = a.keys + row * width + kv_head * a.h;
#pragma unroll 1
  for (int64_t i = threadIdx.x; i < half; i += blockDim.x) {
    const float first = from[i], second = from[i + half];
    const float low = first * cos[i] - second * sin[i], high = first * sin[i] + second * cos[i];
    if (head < a.heads) {
      x[i] = low;
      x[i + half] = high;
    } else {
      key[i] = HalfOf(low);
      key[i + half] = HalfOf(high);
    }
  }
}

// Where a row finds slot j of the ring: among this batch's own rows, if one of them, up to that row, is the
// last that wrote it. own and ring are of one key/value head.
struct Slots {
  int now, window;  // the row's own slot, and how many there are
  int fresh;        // rows of its segment before it
  int64_t row;
  __device__ __forceinline__ const uint16_t* At(const uint16_t* own, const uint16_t* ring, int64_t own_stride,
                                                int64_t h, int j) const {
    const int back = now - j + (now < j ? window : 0);
    return back <= fresh ? own + (row - back) * own_stride : ring + j * h;
  }
};

// Of a row, its slot of the ring.
__device__ __forceinline__ int SlotOf(const Attention& a, const Segment& segment, int64_t row) {
  return (segment.slot + static_cast<int>(row - segment.first_row)) % static_cast<int>(a.window);
}

// What of a row's segment a head of keys and values has.
struct SeenByRow {
  Slots slots;
  int len;
  const uint16_t* ring;  // of the head's keys; its values are `to_values` behind
  int64_t to_values;
  __device__ __forceinline__ SeenByRow(const Attention& a, const Segment& segment, int64_t row, int kv_head) {
    const int64_t position = segment.position + row - segment.first_row;
    len = static_cast<int>(position + 1 < a.window ? position + 1 : a.window);
    slots = {SlotOf(a, segment, row), static_cast<int>(a.window), static_cast<int>(row - segment.first_row),
             row};
    ring = segment.ring + a.offset + kv_head * a.window * a.h;
    to_values = a.kv_heads * a.window * a.h;
  }
};

// Half a warp takes a position, for every query head of one head of keys.
// grid: (window / kScorePositions, kv_heads, n).
inline constexpr int kScoreThreads = 256, kScorePositions = kScoreThreads / static_cast<int>(kLanes);
__global__ void __launch_bounds__(kScoreThreads)
    AttendScoresKernel(Attention a, const Segment* segments, const int32_t* row_segment) {
  LetNextCome();
  const int64_t row = blockIdx.z;
  const int kv_head = static_cast<int>(blockIdx.y),
            group = static_cast<int>(a.heads) / static_cast<int>(a.kv_heads);
  OMNI_DYNAMIC_SHARED(float, query);  // of the heads, one after the other
  const SeenByRow seen(a, segments[row_segment[row]], row, kv_head);
  AwaitLaunchBefore();
  const int first = static_cast<int>(blockIdx.x) * kScorePositions;
  if (first >= seen.len) return;
  const int j = first + static_cast<int>(threadIdx.x) / static_cast<int>(kLanes),
            lane = Lane() % static_cast<int>(kLanes), h = static_cast<int>(a.h);
  const uint16_t* key =
      seen.slots.At(a.keys + kv_head * h, seen.ring, a.kv_heads * h, h, j < seen.len ? j : first);
  // As the heads of a row lie, so do their queries: those of one key are adjacent.
  for (int i = static_cast<int>(threadIdx.x); i < group * h; i += kScoreThreads)
    query[i] = a.q[row * a.stride + kv_head * group * h + i];
  __syncthreads();
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const int at = (head - kv_head * group) * h;
    float part = 0;
#pragma unroll 8
    for (int i = lane; i < h; i += static_cast<int>(kLanes))
      part = fmaf(query[at + i], FloatOf(key[i]), part);
    const float s = FixedTotal(part) * a.scale;
    unsigned most = 0;  // of the scores, as numbers that order as they do
    if (j < seen.len) {
      if (lane == 0) a.scores[(row * a.heads + head) * a.window + j] = s;
      if (s == s) {
        const unsigned bits = __float_as_uint(s + 0.0f);
        most = bits >> 31 ? ~bits : bits | 0x80000000u;
      }
    }
    most = WarpMax(most);
    if (Lane() == 0) atomicMax(a.largest + row * a.heads + head, most);
  }
}

// The weighted sum of kValueColumns columns of a query head: a warp takes one of the sixteen partial sums of
// each. grid: (h / kValueColumns, heads, n); dynamic shared memory: a float a position.
inline constexpr int kValueColumns = kWarpLanes, kValueThreads = kValueColumns * static_cast<int>(kLanes);
__global__ void __launch_bounds__(kValueThreads)
    AttendValuesKernel(Attention a, const Segment* segments, const int32_t* row_segment, float* out,
                       int64_t out_stride) {
  LetNextCome();
  OMNI_DYNAMIC_SHARED(float, weight);  // window
  OMNI_SHARED(float, parts, kValueThreads);
  OMNI_SHARED(float, divisor, 1);
  const int64_t row = blockIdx.z;
  const int head = static_cast<int>(blockIdx.y),
            kv_head = head / (static_cast<int>(a.heads) / static_cast<int>(a.kv_heads));
  const SeenByRow seen(a, segments[row_segment[row]], row, kv_head);
  const int t = static_cast<int>(threadIdx.x), h = static_cast<int>(a.h);
  AwaitLaunchBefore();
  const float* score = a.scores + (row * a.heads + head) * a.window;
  const unsigned rising = a.largest[row * a.heads + head];
  const float max = __uint_as_float(rising >> 31 ? rising & 0x7fffffffu : ~rising) + 0.0f;
#pragma unroll 1
  for (int j = t; j < seen.len; j += kValueThreads) weight[j] = ExpOf(score[j] - max);
  if (!OMNI_DEVICE_PLANTED(kWeightsWithoutBarrier)) __syncthreads();
  if (t < kWarpLanes) {
    float part = 0;
#pragma unroll 8
    for (int j = Lane() % static_cast<int>(kLanes); j < seen.len; j += static_cast<int>(kLanes))
      part = fmaf(weight[j], 1.0f, part);
    part = FixedTotal(part);
    if (t == 0) divisor[0] = part;
  }
  __syncthreads();
  const float sum = divisor[0];
#pragma unroll 1
  for (int j = t; j < seen.len; j += kValueThreads) weight[j] = weight[j] / sum;
  __syncthreads();

  const int column = static_cast<int>(blockIdx.x) * kValueColumns + Lane();
  float part = 0;
  if (column < h) {
    const uint16_t* own = a.values + kv_head * h;
#pragma unroll 8
    for (int j = Warp(); j < seen.len; j += static_cast<int>(kLanes)) {
      part =
          fmaf(weight[j],
               FloatOf(seen.slots.At(own, seen.ring + seen.to_values, a.kv_heads * h, h, j)[column]), part);
    }
  }
  parts[t] = part;
  if (!OMNI_DEVICE_PLANTED(kPartsUnfinished)) __syncthreads();
  if (t >= kValueColumns || column >= h) return;
  float of[kLanes];
#pragma unroll
  for (int p = 0; p < static_cast<int>(kLanes); ++p) of[p] = parts[p * kValueColumns + t];
#pragma unroll
  for (int half = static_cast<int>(kLanes) / 2; half > 0; half /= 2) {
#pragma unroll
    for (int p = 0; p < static_cast<int>(kLanes) / 2; ++p) {
      if (p < half) of[p] = of[p] + of[p + half];
    }
  }
  out[row * out_stride + head * h + column] = of[0];
}

// The last rows of each segment, as many as the window has room for. grid: (window, segments).
__global__ void StoreRingKernel(Attention a, const Segment* segments) {
  LetNextCome();
  const Segment segment = segments[blockIdx.y];
  const int back = static_cast<int>(blockIdx.x);
  AwaitLaunchBefore();
  if (back >= segment.count) return;
  const int64_t row = segment.first_row + segment.count - 1 - back;
  const int h = static_cast<int>(a.h), width = static_cast<int>(a.kv_heads) * h;
  const int64_t head_ring = a.window * a.h, slot = SlotOf(a, segment, row);
  uint16_t* ring = segment.ring + a.offset;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x)) {
    const int64_t at = i / h * head_ring + slot * h + i % h;
    ring[at] = a.keys[row * width + i];
    ring[a.kv_heads * head_ring + at] = a.values[row * width + i];
  }
}

}  // namespace omni::kernels::device
