// What every file of device code starts from: the language's few words that differ between nvcc and the
// fibers of tests/testing/simt.h, which runs the same source on the CPU, and the law's float functions
// (kernels/op.h) once more. All device code is compiled without contraction (-fmad=false), with IEEE division
// and square root and with subnormals kept: where a reduction has the law's shape, its bits are the CPU's.
#pragma once

#include <cstdint>

#include "kernels/device/device.h"
#include "kernels/op.h"
#include "kernels/variants.h"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#include <cuda_runtime.h>
// An array in shared memory.
#define OMNI_SHARED(type, name, count) __shared__ type name[count]
// The launch's dynamic shared memory; one a kernel.
#define OMNI_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char omni_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(omni_dynamic_shared)
// A launch whose blocks may come before the launch before it is over: see AwaitLaunchBefore.
#define OMNI_LAUNCH(kernel, grid, block, shared, stream, ...) \
  ::omni::kernels::device::LaunchEarly(kernel, grid, block, shared, stream, true, __VA_ARGS__)
// One whose blocks come when all before it is done, other streams' events included.
#define OMNI_LAUNCH_LATE(kernel, grid, block, shared, stream, ...) \
  ::omni::kernels::device::LaunchEarly(kernel, grid, block, shared, stream, false, __VA_ARGS__)
// Whether a known fault is to be there: never, but in tests that must find it.
#define OMNI_DEVICE_PLANTED(fault) false
#elif !defined(OMNI_SIMT)
#error "device code is compiled by nvcc, or with tests/testing/simt.h before it"
#endif

namespace omni::kernels::device {

#ifdef __CUDACC__
// Whether this thread's device lets launches come early: compute capability 9.0 and later (set by Use).
inline thread_local bool launches_early = false;

template <class... Taken, class... Given>
void LaunchEarly(void (*kernel)(Taken...), dim3 grid, dim3 block, int64_t shared, void* stream, bool early,
                 Given... given) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(shared);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = early && launches_early ? 1 : 0;
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, static_cast<Taken>(given)...));
}
#endif

// Every kernel begins with LetNextCome, and calls AwaitLaunchBefore before it reads what a launch of this
// pass wrote, and before it writes anything. On devices that let launches come early, the next launch's
// blocks come as soon as all of this one's are there, and wait there until this one is over, and with it all
// before it. So what a kernel may read before it waits is what no launch of the pass writes, but for what was
// written before an OMNI_LAUNCH_LATE. And what a launch of the pass wrote is never read by __ldg, whose
// memory must not change while a kernel is there.
__device__ __forceinline__ void LetNextCome() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ __forceinline__ void AwaitLaunchBefore() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// What is read once a token, and late in a kernel, is asked for early.
__device__ __forceinline__ void Prefetch(const void* address) {
#ifdef __CUDA_ARCH__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
#else
  static_cast<void>(address);
#endif
}

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr int kWarpLanes = 32;

__device__ __forceinline__ int Lane() { return static_cast<int>(threadIdx.x) % kWarpLanes; }
__device__ __forceinline__ int Warp() { return static_cast<int>(threadIdx.x) / kWarpLanes; }
// The half of its warp that a thread is in works on one reduction of kLanes partial sums.
__device__ __forceinline__ unsigned HalfMask() { return Lane() < kLanes ? 0x0000ffffu : 0xffff0000u; }

// Partial sums, one a lane of a half-warp, in the fixed shape: i with i + 8, then + 4, + 2, + 1. All get the
// total.
__device__ __forceinline__ float FixedTotal(float part) {
  const unsigned mask = OMNI_DEVICE_PLANTED(kShuffleMaskTooNarrow) ? HalfMask() & 0x00ff00ffu : HalfMask();
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2) {
    part = part + __shfl_xor_sync(mask, part, OMNI_DEVICE_PLANTED(kShuffleTooWide) ? 2 * half : half);
  }
  return part;
}

// Sums of integers are exact in any order.
__device__ __forceinline__ int WarpSum(int value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#pragma unroll
  for (int half = kWarpLanes / 2; half > 0; half /= 2) value += __shfl_xor_sync(kAllLanes, value, half);
  return value;
#else
  return __reduce_add_sync(kAllLanes, value);
#endif
}

__device__ __forceinline__ unsigned WarpMax(unsigned value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#pragma unroll
  for (int half = kWarpLanes / 2; half > 0; half /= 2) {
    const unsigned other = __shfl_xor_sync(kAllLanes, value, half);
    value = other > value ? other : value;
  }
  return value;
#else
  return __reduce_max_sync(kAllLanes, value);
#endif
}

// sum + the products of four unsigned bytes with four signed ones.
__device__ __forceinline__ int DotUnsigned(unsigned codes, unsigned x, int sum) {
#ifdef __CUDA_ARCH__
  int result;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(codes), "r"(x), "r"(sum));
  return result;
#else
  for (int i = 0; i < 4; ++i)
    sum += static_cast<uint8_t>(codes >> (8 * i)) * static_cast<int8_t>(x >> (8 * i));
  return sum;
#endif
}

__device__ __forceinline__ float ExpOf(float x) {
  x = kExpMax < x ? kExpMax : x;
  x = kExpMin > x ? kExpMin : x;
  const float t = fmaf(x, kLog2E, kRoundMagic);
  const float n = t - kRoundMagic;
  float r = fmaf(n, -kLn2High, x);
  r = fmaf(n, -kLn2Low, r);
  constexpr float kP0 = kExpPoly[0], kP1 = kExpPoly[1], kP2 = kExpPoly[2], kP3 = kExpPoly[3],
                  kP4 = kExpPoly[4];
  float p = fmaf(kP4, r, kP3);
  p = fmaf(p, r, kP2);
  p = fmaf(p, r, kP1);
  p = fmaf(p, r, kP0);
  p = fmaf(p, r * r, r);
  p = 1.0f + p;
  if (p != p) return p;
  const int exponent =
      static_cast<int>(__float_as_uint(t)) - static_cast<int>(0x4b400000u);  // of kRoundMagic
  const int half = exponent >> 1;
  const float low = __uint_as_float(static_cast<unsigned>(half + 127) << 23);
  const float high = __uint_as_float(static_cast<unsigned>(exponent - half + 127) << 23);
  return (p * low) * high;
}

__device__ __forceinline__ float SigmoidOf(float x) { return 1.0f / (1.0f + ExpOf(-x)); }
__device__ __forceinline__ float SiluOf(float x) { return x * SigmoidOf(x); }

__device__ __forceinline__ uint16_t HalfOf(float x) {
#ifdef __CUDACC__
  return __half_as_ushort(__float2half_rn(x));
#else
  return ToFp16(x);
#endif
}
__device__ __forceinline__ float FloatOf(uint16_t x) {
#ifdef __CUDACC__
  return __half2float(__ushort_as_half(x));
#else
  return FromFp16(x);
#endif
}

// One element of a row whose largest magnitude over 127 is s.
__device__ __forceinline__ int QuantizedOf(float x, float s) {
  if (!(s > 0)) return 0;
  float v = x / s;
  v = v < kInt8Max ? v : kInt8Max;
  v = v > -kInt8Max ? v : -kInt8Max;
  return __float2int_rn(v);
}

// Magnitudes of floats order as their bits; NaN is passed over.
__device__ __forceinline__ unsigned MagnitudeBits(float x) {
  return x == x ? __float_as_uint(x) & 0x7fffffffu : 0u;
}

}  // namespace omni::kernels::device
