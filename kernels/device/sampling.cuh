// A token drawn from a row of logits, as Sample (engine/text/sampler.h) draws it: the same steps in the same
// order, so that it is the same token. One block a row.
#pragma once

#include "kernels/device/routes.cuh"

namespace omni::kernels::device {

inline constexpr int kSampleThreads = 512;
inline constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits, kKeyBits = 64;

__device__ __forceinline__ float CleanLogit(float l) {
  // NaN counts as -infinity, +infinity as the largest float.
  return l == l ? (l < 0x1.fffffep+127f ? l : 0x1.fffffep+127f) : __uint_as_float(0xff800000u);
}

// Keys order as (rising logit, falling id) and are all different; 0 is that of no candidate.
__device__ __forceinline__ uint64_t SampleKey(float logit, int64_t id) {
  if (!(logit > __uint_as_float(0xff800000u))) return 0;
  return static_cast<uint64_t>(Rising(logit)) << 32 | (0xffffffffu - static_cast<unsigned>(id));
}
__device__ __forceinline__ float LogitOf(uint64_t key) {
  const unsigned rising = static_cast<unsigned>(key >> 32);
  return __uint_as_float(rising >> 31 ? rising & 0x7fffffffu : ~rising);
}

// adjusted: a row's own scratch of vocab floats.
__global__ void __launch_bounds__(kSampleThreads)
    SampleKernel(const float* logits, int64_t stride, int64_t vocab, const Draw* draws, float* adjusted,
                 int32_t* tokens) {
  LetNextCome();
  OMNI_SHARED(uint64_t, keys, kMaxTopK);
  OMNI_SHARED(unsigned, count, kDigits);
  OMNI_SHARED(uint64_t, prefix, 1);
  OMNI_SHARED(unsigned, left, 1);
  OMNI_SHARED(unsigned, used, 1);
  OMNI_SHARED(float, weight, kMaxTopK);
  AwaitLaunchBefore();
  const Draw draw = draws[blockIdx.x];
  const int t = static_cast<int>(threadIdx.x);
  float* own = adjusted + blockIdx.x * vocab;
  for (int64_t i = t; i < vocab; i += kSampleThreads) own[i] = CleanLogit(logits[blockIdx.x * stride + i]);
  __syncthreads();
  for (int i = t; i < draw.num_penalized; i += kSampleThreads) {
    const int32_t id = draw.penalized[i];
    const float l = own[id];
    if (!(l > __uint_as_float(0xff800000u))) continue;
    const float changed = l > 0 ? l / draw.penalty : l * draw.penalty;
    own[id] = changed < -0x1.fffffep+127f  ? -0x1.fffffep+127f
              : changed > 0x1.fffffep+127f ? 0x1.fffffep+127f
                                           : changed;
  }
  if (t == 0) {
    prefix[0] = 0;
    left[0] = static_cast<unsigned>(draw.top_k);
    used[0] = 0;
  }
  __syncthreads();

  // The key of the last candidate, digit by digit from the highest: `left` of those that begin with `prefix`
  // are candidates.
  for (int shift = kKeyBits - kDigitBits; shift >= 0; shift -= kDigitBits) {
    for (int i = t; i < kDigits; i += kSampleThreads) count[i] = 0;
    __syncthreads();
    const uint64_t begin = prefix[0];
    for (int64_t i = t; i < vocab; i += kSampleThreads) {
      const uint64_t key = SampleKey(own[i], i);
      const bool same =
          shift + kDigitBits == kKeyBits || key >> (shift + kDigitBits) == begin >> (shift + kDigitBits);
      if (same) atomicAdd(&count[static_cast<int>(key >> shift & (kDigits - 1))], 1u);
    }
    __syncthreads();
    if (t == 0) {
      unsigned rest = left[0];
      int digit = kDigits - 1;
      while (digit > 0 && count[digit] < rest) rest -= count[digit--];
      left[0] = rest;
      prefix[0] = begin | static_cast<uint64_t>(digit) << shift;
    }
    __syncthreads();
  }
  const uint64_t least = prefix[0];
  for (int i = t; i < kMaxTopK; i += kSampleThreads) keys[i] = 0;
  __syncthreads();
  for (int64_t i = t; i < vocab; i += kSampleThreads) {
    const uint64_t key = SampleKey(own[i], i);
    if (key != 0 && key >= least) keys[static_cast<int>(atomicAdd(&used[0], 1u))] = key;
  }
  __syncthreads();
  // Bitonic, falling; what is no candidate comes last.
  for (int size = 2; size <= kMaxTopK; size *= 2) {
    for (int step = size / 2; step > 0; step /= 2) {
      for (int i = t; i < kMaxTopK / 2; i += kSampleThreads) {
        const int low = 2 * i - (i & (step - 1)), high = low + step;
        const uint64_t a = keys[low], b = keys[high];
        const bool falling = (low & size) == 0;
        if (falling ? a < b : a > b) {
          keys[low] = b;
          keys[high] = a;
        }
      }
      __syncthreads();
    }
  }
  const int candidates = static_cast<int>(used[0]);
  const float largest = LogitOf(keys[0]);
  if (draw.temperature > 0) {
    for (int i = t; i < candidates; i += kSampleThreads)
      weight[i] = ExpOf((LogitOf(keys[i]) - largest) / draw.temperature);
  }
  __syncthreads();
  if (t != 0) return;
  int chosen = 0;
  if (draw.temperature > 0 && candidates > 0) {
    int n = candidates;
    if (draw.top_p < 1.0f) {
      double total = 0;
      for (int i = 0; i < n; ++i) total += weight[i];
      const double wanted = static_cast<double>(draw.top_p) * total;
      double sum = weight[0];
      for (n = 1; n < candidates && sum < wanted; ++n) sum += weight[n];
    }
    const float floor = draw.min_p * weight[0];
    while (n > 1 && weight[n - 1] < floor) --n;
    double total = 0;
    for (int i = 0; i < n; ++i) total += weight[i];
    const double target = draw.uniform * total;
    double sum = 0;
    chosen = n - 1;
    for (int i = 0; i + 1 < n; ++i) {
      sum += weight[i];
      if (target < sum) {
        chosen = i;
        break;
      }
    }
  }
  tokens[blockIdx.x] =
      candidates == 0 ? 0
                      : static_cast<int32_t>(0xffffffffu - static_cast<unsigned>(keys[chosen] & 0xffffffffu));
}

}  // namespace omni::kernels::device
