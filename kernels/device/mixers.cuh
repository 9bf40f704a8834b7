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
  const Stretch stretch = stretches[blockIdx.y];
  const int lane = Lane() % kLanes;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kPdrThreads / kLanes) + threadIdx.x / kLanes;
  const bool is_row = i < in.d;
  float* S = segments[stretch.segment].pdr + in.offset + (is_row ? i : 0) * in.r;
  float held[kHeld > 0 ? kHeld : 1];
#pragma unroll
  for (int e = 0; e < kHeld; ++e) {
    const int64_t j = lane + kLanes * e;
    held[e] = is_row && j < in.r ? S[j] : 0.0f;
  }
  for (int t = 0; t < stretch.count; ++t) {
    const int64_t row = stretch.first_row + t;
    const float* k = in.k + row * in.k_stride;
    const float* q = in.q + row * in.k_stride;
    float part = 0;
    if (is_row) {
      const float v = in.v[row * in.stride + i];
      const float s = SigmoidOf(in.p[row * in.stride + i] + in.bias[i]);
      const float gamma = in.floor > s ? in.floor : s;
      if (kHeld > 0) {
#pragma unroll
        for (int e = 0; e < kHeld; ++e) {
          const int64_t j = lane + kLanes * e;
          if (j < in.r) {
            held[e] = gamma * held[e] + v * k[j];
            part = fmaf(held[e], q[j], part);
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
  OMNI_SHARED(float, norm, 1);
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

// grid: n.
__global__ void RotateRowsKernel(Attention a) {
  const int64_t row = blockIdx.x, half = a.h / 2, pairs = a.heads * half, kv_pairs = a.kv_heads * half;
  const float* cos = a.cos + row * half;
  const float* sin = a.sin + row * half;
  for (int64_t p = threadIdx.x; p < pairs; p += blockDim.x) {
    const int64_t i = p % half;
    float* x = a.q + row * a.stride + p / half * a.h;
    const float first = x[i], second = x[i + half];
    x[i] = first * cos[i] - second * sin[i];
    x[i + half] = first * sin[i] + second * cos[i];
  }
  const int64_t width = a.kv_heads * a.h;
  for (int64_t p = threadIdx.x; p < kv_pairs; p += blockDim.x) {
    const int64_t i = p % half, at = p / half * a.h + i;
    const float* x = a.k + row * a.kv_stride;
    uint16_t* key = a.keys + row * width;
    key[at] = HalfOf(x[at] * cos[i] - x[at + half] * sin[i]);
    key[at + half] = HalfOf(x[at] * sin[i] + x[at + half] * cos[i]);
  }
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x)
    a.values[row * width + i] = HalfOf(a.v[row * a.kv_stride + i]);
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

// One query head of one row. Half a warp a score; then a thread an element of the output and eight of the
// sixteen partial sums. grid: (heads, n). Dynamic shared memory: a float a position, and kLanes / 2 partial
// sums a thread.
inline constexpr int kAttendThreads = 256;
__global__ void __launch_bounds__(kAttendThreads)
    AttendKernel(Attention a, const Segment* segments, const int32_t* row_segment, float* out,
                 int64_t out_stride) {
  constexpr int kParts = static_cast<int>(kLanes) / 2;
  OMNI_DYNAMIC_SHARED(float, score);  // window
  OMNI_SHARED(float, upper, kAttendThreads / 2 * kParts);
  OMNI_SHARED(unsigned, largest, 1);
  OMNI_SHARED(float, divisor, 1);
  const int64_t head = blockIdx.x, row = blockIdx.y, kv_head = head / (a.heads / a.kv_heads);
  const Segment segment = segments[row_segment[row]];
  const int64_t position = segment.position + row - segment.first_row;
  const int len = static_cast<int>(position + 1 < a.window ? position + 1 : a.window);
  const Slots slots{static_cast<int>(position % a.window), static_cast<int>(a.window),
                    static_cast<int>(row - segment.first_row), row};
  const int64_t width = a.kv_heads * a.h, head_ring = a.window * a.h;
  const uint16_t* ring = segment.ring + a.offset + kv_head * head_ring;
  const float* q = a.q + row * a.stride + head * a.h;
  const int t = static_cast<int>(threadIdx.x), lane = Lane() % static_cast<int>(kLanes);
  const int halves = kAttendThreads / static_cast<int>(kLanes), h = static_cast<int>(a.h);

  if (t == 0) largest[0] = 0;
  __syncthreads();
  unsigned most = 0;            // of the scores, as numbers that order as they do
  constexpr int kTogether = 4;  // positions of a half-warp whose keys are on their way at once
  for (int first = 0; first < len; first += kTogether * halves) {
    float part[kTogether];
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      const int j = first + u * halves + t / static_cast<int>(kLanes);
      const uint16_t* key = slots.At(a.keys + kv_head * h, ring, width, h, j < len ? j : 0);
      part[u] = 0;
#pragma unroll 8
      for (int i = lane; i < h; i += static_cast<int>(kLanes)) part[u] = fmaf(q[i], FloatOf(key[i]), part[u]);
    }
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      const int j = first + u * halves + t / static_cast<int>(kLanes);
      const float s = FixedTotal(part[u]) * a.scale;
      if (j < len) {
        if (lane == 0) score[j] = s;
        if (s == s) {
          const unsigned bits = __float_as_uint(s + 0.0f);
          const unsigned rising = bits >> 31 ? ~bits : bits | 0x80000000u;
          most = rising > most ? rising : most;
        }
      }
    }
  }
  most = WarpMax(most);
  if (Lane() == 0) atomicMax(&largest[0], most);
  __syncthreads();
  const unsigned rising = largest[0];
  const float max = __uint_as_float(rising >> 31 ? rising & 0x7fffffffu : ~rising) + 0.0f;
  for (int j = t; j < len; j += kAttendThreads) score[j] = ExpOf(score[j] - max);
  if (!OMNI_DEVICE_PLANTED(kWeightsWithoutBarrier)) __syncthreads();
  if (t < kWarpLanes) {
    float part = 0;
#pragma unroll 4
    for (int j = lane; j < len; j += static_cast<int>(kLanes)) part = fmaf(score[j], 1.0f, part);
    part = FixedTotal(part);
    if (t == 0) divisor[0] = part;
  }
  __syncthreads();
  const float sum = divisor[0];
  for (int j = t; j < len; j += kAttendThreads) score[j] = score[j] / sum;
  __syncthreads();

  const uint16_t* value_ring = ring + a.kv_heads * head_ring;
  const int which = t / (kAttendThreads / 2);  // of the two halves of the partial sums
  const int column = t % (kAttendThreads / 2);
  for (int first = 0; first < h; first += kAttendThreads / 2) {
    const int i = first + column;
    float part[kParts];
#pragma unroll
    for (int p = 0; p < kParts; ++p) part[p] = 0;
    if (i < h) {
      const uint16_t* own = a.values + kv_head * h;
      int j = which * kParts;
      for (; j + kLanes + kParts <= len; j += 2 * static_cast<int>(kLanes)) {
        float v[2 * kParts];
#pragma unroll
        for (int p = 0; p < 2 * kParts; ++p) {
          const int at = j + p % kParts + p / kParts * static_cast<int>(kLanes);
          v[p] = FloatOf(slots.At(own, value_ring, width, h, at)[i]);
        }
#pragma unroll
        for (int p = 0; p < kParts; ++p) part[p] = fmaf(score[j + p], v[p], part[p]);
#pragma unroll
        for (int p = 0; p < kParts; ++p)
          part[p] = fmaf(score[j + static_cast<int>(kLanes) + p], v[kParts + p], part[p]);
      }
      for (; j < len; j += static_cast<int>(kLanes)) {
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
          if (j + p < len)
            part[p] = fmaf(score[j + p], FloatOf(slots.At(own, value_ring, width, h, j + p)[i]), part[p]);
        }
      }
    }
    if (which == 1) {
#pragma unroll
      for (int p = 0; p < kParts; ++p) upper[column * kParts + p] = part[p];
    }
    __syncthreads();
    if (which == 0 && i < h) {
#pragma unroll
      for (int p = 0; p < kParts; ++p) part[p] = part[p] + upper[column * kParts + p];
#pragma unroll
      for (int step = kParts / 2; step > 0; step /= 2) {
#pragma unroll
        for (int p = 0; p < kParts / 2; ++p) {
          if (p < step) part[p] = part[p] + part[p + step];
        }
      }
      out[row * out_stride + head * h + i] = part[0];
    }
    if (!OMNI_DEVICE_PLANTED(kPartsOverwritten)) __syncthreads();
  }
}

// The last rows of each segment, as many as the window has room for. grid: (window, segments).
__global__ void StoreRingKernel(Attention a, const Segment* segments) {
  const Segment segment = segments[blockIdx.y];
  const int64_t back = blockIdx.x;
  if (back >= segment.count) return;
  const int64_t row = segment.first_row + segment.count - 1 - back;
  const int64_t slot = (segment.position + segment.count - 1 - back) % a.window;
  const int64_t width = a.kv_heads * a.h, head_ring = a.window * a.h;
  uint16_t* ring = segment.ring + a.offset;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    const int64_t at = i / a.h * head_ring + slot * a.h + i % a.h;
    ring[at] = a.keys[row * width + i];
    ring[a.kv_heads * head_ring + at] = a.values[row * width + i];
  }
}

}  // namespace omni::kernels::device
