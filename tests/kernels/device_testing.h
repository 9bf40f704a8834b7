// What the tests of device code share. They are linked with the device code on fibers (tests/testing/simt.h),
// and, where there is nvcc, once more with it on the GPU (device_suite_cuda): the same cases.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <type_traits>
#include <vector>

#include "kernels/device/device.h"
#include "kernels/op.h"
#include "tests/kernels/testing.h"

#ifdef OMNI_DEVICE_ON_FIBERS
#include "tests/testing/simt.h"
#endif

namespace omni::kernels::device {

// An array in the device's memory.
template <class T>
class Array {
 public:
  explicit Array(int64_t count) : count_(count) {
    void* memory = nullptr;
    const Failure failure = Allocate(bytes() > 0 ? bytes() : 16, &memory);
    if (failure) ADD_FAILURE() << FailureText(failure);
    data_ = static_cast<T*>(memory);
    // What a kernel leaves out is then neither right by chance nor unset.
    const std::vector<uint8_t> unlikely(static_cast<size_t>(bytes()), 0xa5);
    if (const Failure f = CopyIn(data_, unlikely.data(), bytes(), nullptr)) ADD_FAILURE() << FailureText(f);
    if (const Failure f = Synchronize(nullptr)) ADD_FAILURE() << FailureText(f);
  }
  explicit Array(const std::vector<T>& from) : Array(static_cast<int64_t>(from.size())) { Put(from); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { Free(data_); }

  void Put(const std::vector<T>& from) {
    if (const Failure f = CopyIn(data_, from.data(), bytes(), nullptr)) ADD_FAILURE() << FailureText(f);
    if (const Failure f = Synchronize(nullptr)) ADD_FAILURE() << FailureText(f);
  }
  std::vector<T> Get() const {
    std::vector<T> to(static_cast<size_t>(count_));
    if (const Failure f = CopyOut(to.data(), data_, bytes(), nullptr)) ADD_FAILURE() << FailureText(f);
    if (const Failure f = Synchronize(nullptr)) ADD_FAILURE() << FailureText(f);
    return to;
  }
  T* data() const { return data_; }

 private:
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }
  int64_t count_;
  T* data_ = nullptr;
};

// n rows of int8, padded with zeros to `stride`, with scales, as the device's and as the CPU's kernels take
// them.
struct DeviceRows {
  DeviceRows(int n, int64_t stride, const std::vector<int8_t>& values, const std::vector<float>& scales)
      : host(values), host_scale(scales), q(values), scale(scales), sum(n) {
    std::vector<int32_t> sums(static_cast<size_t>(n));
    for (int t = 0; t < n; ++t) {
      for (int64_t j = 0; j < stride; ++j)
        sums[static_cast<size_t>(t)] += values[static_cast<size_t>(t * stride + j)];
    }
    sum.Put(sums);
    rows = {q.data(), stride, scale.data(), sum.data()};
  }
  std::vector<int8_t> host;
  std::vector<float> host_scale;
  Array<int8_t> q;
  Array<float> scale;
  Array<int32_t> sum;
  Quantized rows;
};

// On fibers, that none of the launches so far did what it must not.
class DeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (Count() == 0) GTEST_SKIP() << "no device";
#ifdef OMNI_DEVICE_ON_FIBERS
    simt::ClearFaults();
    simt::SetOrder(simt::Order::kShuffled);
#endif
  }
  void TearDown() override {
    if (Count() == 0) return;
    if (const Failure f = Synchronize(nullptr)) ADD_FAILURE() << FailureText(f);
#ifdef OMNI_DEVICE_ON_FIBERS
    for (const std::string& fault : simt::TakeFaults()) ADD_FAILURE() << fault;
#endif
  }
};

inline int64_t Ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace omni::kernels::device
