// What the kernel tests share: seeded random data, buffers that end at an unreadable page, and the list of
// variants.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/op.h"

namespace omni::kernels {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int Below(int n) { return static_cast<int>(Next() % static_cast<uint64_t>(n)); }
  float Uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(Next() >> 40) * 0x1p-24f;
  }
  std::vector<float> Floats(int64_t n, float low, float high) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = Uniform(low, high);
    return v;
  }

 private:
  uint64_t state_;
};

// `count` elements whose last byte is the last of a page; the page after it cannot be read. Starts as zeros.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t count) : count_(count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    const size_t readable = (bytes + page - 1) / page * page;
    mapped_ = readable + page;
    void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(static_cast<char*>(p) + readable, page, PROT_NONE) != 0) std::abort();
    map_ = static_cast<char*>(p);
    data_ = reinterpret_cast<T*>(map_ + readable - bytes);
  }
  explicit Guarded(const std::vector<T>& v) : Guarded(static_cast<int64_t>(v.size())) {
    if (!v.empty()) std::memcpy(data_, v.data(), v.size() * sizeof(T));
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(map_, mapped_); }

  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  std::vector<T> Copy() const { return std::vector<T>(data_, data_ + count_); }

 private:
  int64_t count_;
  size_t mapped_;
  char* map_;
  T* data_;
};

inline bool SameFloat(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

inline testing::AssertionResult SameBytes(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return testing::AssertionFailure() << "sizes " << a.size() << " and " << b.size();
  for (size_t i = 0; i < a.size(); ++i) {
    if (!SameFloat(a[i], b[i])) {
      return testing::AssertionFailure()
             << "element " << i << " of " << a.size() << ": " << std::hexfloat << a[i] << " and " << b[i];
    }
  }
  return testing::AssertionSuccess();
}

// Every test of this fixture runs on each instruction set, and says so where the CPU lacks one.
class EveryIsa : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (OpsFor(GetParam()) == nullptr) GTEST_SKIP() << "this CPU or build lacks " << IsaName(GetParam());
  }
  const Ops& ops() const { return *OpsFor(GetParam()); }
  const Ops& ref() const { return *OpsFor(Isa::kScalar); }
};

inline auto EachIsa() { return testing::ValuesIn(kAllIsas); }
inline std::string IsaTestName(const testing::TestParamInfo<Isa>& info) { return IsaName(info.param); }

}  // namespace omni::kernels
