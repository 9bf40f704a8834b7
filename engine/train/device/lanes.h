// Loops that are written once and compiled twice: by nvcc for a CUDA device, where a row is computed by the
// 32 lanes of a warp and every element of a plain loop by a thread; and by g++ for this CPU, where there is
// one lane and one thread, so that tests see the same source compute. What is here is for engine/train/device
// alone.
//
// Calls are queued on the device in the order in which they are made (one stream); Download waits for them.
// An error of the device is thrown as std::runtime_error that names the call.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#ifdef __CUDACC__
#include <cublas_v2.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define OMNI_LANES __device__
#define OMNI_UNROLL _Pragma("unroll")
#else
#define OMNI_LANES
#define OMNI_UNROLL
#endif

namespace omni::train::OMNI_TRAIN_DEVICE {

using bf16 = uint16_t;  // bit pattern

#ifdef __CUDACC__
inline void Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}
inline void Check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error(std::string(what) + ": " + cublasGetStatusString(status));
}
inline void* Allocate(size_t bytes) {
  void* p = nullptr;
  Check(cudaMalloc(&p, bytes), "cudaMalloc");
  return p;
}
inline void Release(void* p) { cudaFree(p); }
inline void Upload(void* to, const void* from, size_t bytes) {
  Check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copy to the device");
}
inline void Download(void* to, const void* from, size_t bytes) {
  Check(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copy from the device");
}
inline void CopyInside(void* to, const void* from, size_t bytes) {
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice), "copy on the device");
}
inline void Zero(void* p, size_t bytes) { Check(cudaMemsetAsync(p, 0, bytes), "cudaMemset"); }

constexpr int kBlock = 256;  // threads

template <int block, typename F>
__global__ void __launch_bounds__(block) ElementsKernel(int64_t n, F f) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * block + threadIdx.x;
  if (i < n) f(i);
}
template <int block = kBlock, typename F>
void ForElements(int64_t n, const F& f) {
  if (n == 0) return;
  ElementsKernel<block><<<static_cast<unsigned>((n + block - 1) / block), block>>>(n, f);
  Check(cudaGetLastError(), "kernel");
}

struct Lanes {
  static constexpr int count = 32;
  __device__ int id() const { return static_cast<int>(threadIdx.x % 32); }
  template <typename T>
  __device__ T Sum(T x) const {
    for (int other = 16; other > 0; other /= 2) x += __shfl_xor_sync(0xffffffffu, x, other);
    return x;
  }
  __device__ float Max(float x) const {
    for (int other = 16; other > 0; other /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, other));
    return x;
  }
};
template <typename F>
__global__ void RowsKernel(int64_t rows, F f) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kBlock / 32) + threadIdx.x / 32;
  if (row < rows) f(row, Lanes());
}
template <typename F>
void ForRows(int64_t rows, const F& f) {
  if (rows == 0) return;
  constexpr int64_t per = kBlock / 32;
  RowsKernel<<<static_cast<unsigned>((rows + per - 1) / per), kBlock>>>(rows, f);
  Check(cudaGetLastError(), "kernel");
}

inline __device__ void Add(float* to, float x) { atomicAdd(to, x); }
inline __device__ void Add(double* to, double x) { atomicAdd(to, x); }

// Four neighbouring threads share a column of r values, r / 4 each; `part` is the one of this thread, index %
// 4.
constexpr int kParts = 4;
inline __device__ float SumOfParts(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
// to[part * n + j] += values[j] of every thread of the warp; they all add to the same place.
template <int n>
__device__ void AddTogether(float* to, float (&values)[n]) {
  static_assert(n == 8 || n == 4 || n == 2);
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int other = 16; other >= 4 * n; other /= 2) {
#pragma unroll
    for (int j = 0; j < n; ++j) values[j] += __shfl_xor_sync(0xffffffffu, values[j], other);
  }
#pragma unroll
  for (int half = n / 2; half > 0; half /= 2) {
#pragma unroll
    for (int j = 0; j < half; ++j) {
      const bool upper = (lane & (4 * half)) != 0;
      const float give = upper ? values[j] : values[j + half];
      const float keep = upper ? values[j + half] : values[j];
      values[j] = keep + __shfl_xor_sync(0xffffffffu, give, 4 * half);
    }
  }
  if (lane < 4 * n) atomicAdd(to + lane % 4 * n + lane / 4, values[0]);
}
// n floats that begin at a multiple of min(n, 4) of them.
template <int n>
__device__ void LoadRow(const float* from, float (&to)[n]) {
  if constexpr (n % 4 == 0) {
#pragma unroll
    for (int j = 0; j < n; j += 4) {
      const float4 x = *reinterpret_cast<const float4*>(from + j);
      to[j] = x.x, to[j + 1] = x.y, to[j + 2] = x.z, to[j + 3] = x.w;
    }
  } else {
#pragma unroll
    for (int j = 0; j < n; ++j) to[j] = from[j];
  }
}
#else
inline void* Allocate(size_t bytes) { return std::malloc(bytes > 0 ? bytes : 1); }
inline void Release(void* p) { std::free(p); }
inline void Upload(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
inline void Download(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
inline void CopyInside(void* to, const void* from, size_t bytes) { std::memmove(to, from, bytes); }
inline void Zero(void* p, size_t bytes) { std::memset(p, 0, bytes); }

template <int block = 1, typename F>
void ForElements(int64_t n, const F& f) {
  for (int64_t i = 0; i < n; ++i) f(i);
}
struct Lanes {
  static constexpr int count = 1;
  int id() const { return 0; }
  template <typename T>
  T Sum(T x) const {
    return x;
  }
  float Max(float x) const { return x; }
};
template <typename F>
void ForRows(int64_t rows, const F& f) {
  for (int64_t i = 0; i < rows; ++i) f(i, Lanes());
}
inline void Add(float* to, float x) { *to += x; }
inline void Add(double* to, double x) { *to += x; }
constexpr int kParts = 1;
inline float SumOfParts(float x) { return x; }
template <int n>
void AddTogether(float* to, float (&values)[n]) {
  for (int j = 0; j < n; ++j) to[j] += values[j];
}
template <int n>
void LoadRow(const float* from, float (&to)[n]) {
  for (int j = 0; j < n; ++j) to[j] = from[j];
}
#endif

OMNI_LANES inline bf16 ToBf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
OMNI_LANES inline float ToFloat(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// Memory of the device, not set to anything.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) : count_(count), data_(static_cast<T*>(Allocate(Bytes(count)))) {}
  explicit Buffer(const std::vector<T>& values) : Buffer(static_cast<int64_t>(values.size())) { Set(values); }
  Buffer(Buffer&& o) noexcept : count_(std::exchange(o.count_, 0)), data_(std::exchange(o.data_, nullptr)) {}
  Buffer& operator=(Buffer&& o) noexcept {
    std::swap(count_, o.count_);
    std::swap(data_, o.data_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) Release(data_);
  }

  T* get() const { return data_; }
  int64_t count() const { return count_; }
  void Zero() { OMNI_TRAIN_DEVICE::Zero(data_, Bytes(count_)); }
  void Set(const std::vector<T>& values) {
    Upload(data_, values.data(), Bytes(static_cast<int64_t>(values.size())));
  }
  std::vector<T> Get() const {
    std::vector<T> values(static_cast<size_t>(count_));
    Download(values.data(), data_, Bytes(count_));
    return values;
  }

 private:
  static size_t Bytes(int64_t count) { return static_cast<size_t>(count) * sizeof(T); }
  int64_t count_ = 0;
  T* data_ = nullptr;
};

// Products of row-major matrices, C = alpha op(A) op(B) + beta C with float32 sums: kNT A [m, k], B [n, k];
// kNN A [m, k], B [k, n]; kTN A [k, m], B [k, n]. `batch` of them, each `stride` elements after the one
// before.
enum class Form { kNT, kNN, kTN };
template <typename T>
struct Operand {
  const T* data;
  int64_t ld;
  int64_t stride = 0;
};
struct Result {
  float* data;
  int64_t ld;
  int64_t stride = 0;
};

class Products {
 public:
#ifdef __CUDACC__
  Products() { Check(cublasCreate(&handle_), "cublasCreate"); }
  ~Products() { cublasDestroy(handle_); }
#else
  Products() = default;
#endif
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  template <typename T>
  void operator()(Form form, int64_t m, int64_t n, int64_t k, Operand<T> a, Operand<T> b, Result c,
                  float alpha = 1, float beta = 0, int64_t batch = 1) {
    if (m == 0 || n == 0 || batch == 0) return;
#ifdef __CUDACC__
    // cuBLAS has columns first: the transposed product of the operands in the other order.
    const cublasOperation_t of_b = form == Form::kNT ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t of_a = form == Form::kTN ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cudaDataType type = sizeof(T) == 2 ? CUDA_R_16BF : CUDA_R_32F;
    Check(cublasGemmStridedBatchedEx(handle_, of_b, of_a, static_cast<int>(n), static_cast<int>(m),
                                     static_cast<int>(k), &alpha, b.data, type, static_cast<int>(b.ld),
                                     b.stride, a.data, type, static_cast<int>(a.ld), a.stride, &beta, c.data,
                                     CUDA_R_32F, static_cast<int>(c.ld), c.stride, static_cast<int>(batch),
                                     CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmStridedBatchedEx");
#else
    std::vector<float> row(static_cast<size_t>(n));
    for (int64_t g = 0; g < batch; ++g) {
      const T *pa = a.data + g * a.stride, *pb = b.data + g * b.stride;
      for (int64_t i = 0; i < m; ++i) {
        std::fill(row.begin(), row.end(), 0.0f);
        for (int64_t x = 0; x < k; ++x) {
          const float of_a = Value(pa[form == Form::kTN ? x * a.ld + i : i * a.ld + x]);
          if (of_a == 0) continue;
          const T* of_b = form == Form::kNT ? pb + x : pb + x * b.ld;
          const int64_t step = form == Form::kNT ? b.ld : 1;
          for (int64_t j = 0; j < n; ++j) row[static_cast<size_t>(j)] += of_a * Value(of_b[j * step]);
        }
        float* out = c.data + g * c.stride + i * c.ld;
        for (int64_t j = 0; j < n; ++j)
          out[j] = alpha * row[static_cast<size_t>(j)] + (beta == 0 ? 0 : beta * out[j]);
      }
    }
#endif
  }

 private:
#ifdef __CUDACC__
  cublasHandle_t handle_ = nullptr;
#else
  static float Value(bf16 x) { return ToFloat(x); }
  static float Value(float x) { return x; }
#endif
};

}  // namespace omni::train::OMNI_TRAIN_DEVICE
