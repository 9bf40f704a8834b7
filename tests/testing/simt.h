// Runs a `__global__` function's own source on the CPU. A file of device code is compiled as C++ with this
// header before it (-include); kernels/device/device.cuh then finds here what nvcc would have given it.
//
// Every thread of a block is a fiber; blocks run one after the other. A fiber runs until it meets a barrier,
// a shuffle or a vote, and the others go on when all that must be there are. What CUDA leaves undefined is a
// fault: the launch ends there, and TakeFaults says where and what.
//
//   barriers        that some threads of the block never come to, or come to in another line
//   shuffles, votes by a lane that its own mask lacks; with masks that differ, or lanes that never come or
//                   have ended; from a lane outside the mask
//   shared memory   outside an array; unset; read where another thread wrote, written where another one read
//                   or wrote, with no barrier between (__syncwarp between lanes of a warp); plain beside
//                   atomic
//   launches        a block that is no whole number of warps, or larger than a device takes
//
// Global memory is the process's own: what lies outside of it is found by guard pages (simt_runtime.h) and by
// AddressSanitizer. One thread of the process at a time.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

#define OMNI_SIMT 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};

namespace omni::simt {

inline constexpr int kWarp = 32, kMaxThreads = 1024;

enum class Order { kAscending, kDescending, kShuffled };  // in which a block's threads get their turns
void SetOrder(Order order);

// What went wrong since the last call; launches end at their first fault.
std::vector<std::string> TakeFaults();
void ClearFaults();
int64_t launches();  // so far

// Known faults that the device code can be told to have (OMNI_DEVICE_PLANTED).
void Plant(const char* name);  // null: none
bool IsPlanted(const char* name);
bool PlantReached();  // whether the planted fault's place was come to since Plant

void Launch(dim3 grid, dim3 block, int64_t dynamic_bytes, const std::function<void()>& thread);

// The thread that runs.
struct Place {
  dim3 thread{0, 0, 0}, block{0, 0, 0}, block_size, grid;
  int lane = 0, warp = 0, linear = 0;
};
extern Place current;

enum class Meeting : int { kNone, kBarrier, kSyncWarp, kShuffle, kBallot, kSum, kMax };
// What a thread brings to a meeting of its warp, and what it takes away.
uint64_t Meet(Meeting meeting, unsigned mask, uint64_t value, int source_lane, std::source_location at);
void Barrier(std::source_location at);
[[noreturn]] void Fault(const std::string& what, std::source_location at);

// One array of a block's shared memory, with who touched what since which barrier.
struct SharedMemory {
  struct Touch {
    int32_t writer = -1, reader = -1;  // linear thread; kMany
    int64_t write_epoch = 0, read_epoch = 0;
    int64_t write_warp_epoch = 0, read_warp_epoch = 0;
    bool atomic = false;
  };
  static constexpr int32_t kMany = -2;
  std::string name;
  int64_t count = 0;
  std::vector<std::byte> bytes;
  std::vector<Touch> touch;
  void Read(int64_t i, std::source_location at);
  void Write(int64_t i, std::source_location at);
  void Atomic(int64_t i, std::source_location at);

 private:
  void CheckIndex(int64_t i, std::source_location at) const;
};
SharedMemory& BlockShared(const char* name, int64_t element_bytes, int64_t count, std::source_location at);
int64_t DynamicBytes();

template <class T>
class Ref {
 public:
  Ref(SharedMemory& memory, int64_t i, std::source_location at) : memory_(memory), i_(i), at_(at) {}
  operator T() const {
    memory_.Read(i_, at_);
    return *place();
  }
  T operator=(T value) const {
    memory_.Write(i_, at_);
    return *place() = value;
  }
  T operator=(const Ref& other) const { return *this = static_cast<T>(other); }
  T operator+=(T value) const { return *this = static_cast<T>(*this) + value; }
  const Ref* operator&() const { return this; }
  // Old value; the new one is change(old).
  template <class F>
  T Atomically(F change) const {
    memory_.Atomic(i_, at_);
    const T old = *place();
    *place() = change(old);
    return old;
  }

 private:
  T* place() const { return reinterpret_cast<T*>(memory_.bytes.data()) + i_; }
  SharedMemory& memory_;
  int64_t i_;
  std::source_location at_;
};

template <class T>
class Shared {
 public:
  explicit Shared(SharedMemory& memory) : memory_(&memory) {}
  struct Index {  // takes the place of the call along
    template <class I>
    Index(I i, std::source_location where = std::source_location::current())
        : value(static_cast<int64_t>(i)), at(where) {}
    int64_t value;
    std::source_location at;
  };
  Ref<T> operator[](Index i) const { return Ref<T>(*memory_, i.value, i.at); }

 private:
  SharedMemory* memory_;
};

// A value by its bits, for a meeting.
template <class T>
uint64_t Bits(T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
T FromBits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace omni::simt

#define threadIdx (::omni::simt::current.thread)
#define blockIdx (::omni::simt::current.block)
#define blockDim (::omni::simt::current.block_size)
#define gridDim (::omni::simt::current.grid)

#define OMNI_SHARED(type, name, count) \
  ::omni::simt::Shared<type> name(     \
      ::omni::simt::BlockShared(#name, sizeof(type), (count), std::source_location::current()))
#define OMNI_DYNAMIC_SHARED(type, name)                      \
  ::omni::simt::Shared<type> name(::omni::simt::BlockShared( \
      #name, sizeof(type), ::omni::simt::DynamicBytes() / sizeof(type), std::source_location::current()))
#define OMNI_DEVICE_PLANTED(fault) (::omni::simt::IsPlanted(#fault))
#define OMNI_LAUNCH(kernel, grid, block, shared, stream, ...) \
  ::omni::simt::Enqueue(stream, grid, block, shared, [=] { kernel(__VA_ARGS__); })
#define OMNI_LAUNCH_LATE OMNI_LAUNCH

namespace omni::simt {
// Of simt_runtime.cc: on a stream, which may be recording a graph.
void Enqueue(void* stream, dim3 grid, dim3 block, int64_t dynamic_bytes, std::function<void()> thread);
}  // namespace omni::simt

using SimtLocation = std::source_location;

inline void __syncthreads(SimtLocation at = SimtLocation::current()) { omni::simt::Barrier(at); }
inline void __syncwarp(unsigned mask = 0xffffffffu, SimtLocation at = SimtLocation::current()) {
  omni::simt::Meet(omni::simt::Meeting::kSyncWarp, mask, 0, omni::simt::current.lane, at);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, SimtLocation at = SimtLocation::current()) {
  using namespace omni::simt;
  return FromBits<T>(Meet(Meeting::kShuffle, mask, Bits(value), lane & (kWarp - 1), at));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, SimtLocation at = SimtLocation::current()) {
  using namespace omni::simt;
  return FromBits<T>(Meet(Meeting::kShuffle, mask, Bits(value), (current.lane ^ bits) & (kWarp - 1), at));
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SimtLocation at = SimtLocation::current()) {
  using namespace omni::simt;
  return static_cast<unsigned>(Meet(Meeting::kBallot, mask, predicate != 0, current.lane, at));
}
inline int __reduce_add_sync(unsigned mask, int value, SimtLocation at = SimtLocation::current()) {
  using namespace omni::simt;
  const uint64_t bits = Bits(value);
  return FromBits<int>(Meet(Meeting::kSum, mask, bits, current.lane, at));
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, SimtLocation at = SimtLocation::current()) {
  using namespace omni::simt;
  return FromBits<unsigned>(Meet(Meeting::kMax, mask, Bits(value), current.lane, at));
}

template <class T>
T atomicAdd(T* at, T value) {
  const T old = *at;
  *at = old + value;
  return old;
}
template <class T>
T atomicMax(T* at, T value) {
  const T old = *at;
  *at = old < value ? value : old;
  return old;
}
template <class T>
T atomicAdd(const omni::simt::Ref<T>* at, std::type_identity_t<T> value) {
  return at->Atomically([&](T old) { return static_cast<T>(old + value); });
}
template <class T>
T atomicMax(const omni::simt::Ref<T>* at, std::type_identity_t<T> value) {
  return at->Atomically([&](T old) { return old < value ? value : old; });
}

inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
  return c;
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i) & 7;
    out |= static_cast<unsigned>(bytes >> (8 * pick) & 0xff) << (8 * i);
  }
  return out;
}
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
template <class T>
T __ldcs(const T* at) {
  return *at;
}
template <class T>
T __ldg(const T* at) {
  return *at;
}
