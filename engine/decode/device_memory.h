// Memory of one GPU under a cap, and the stream that a decoder works on. Internal to the device's decoder.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "kernels/device/device.h"

namespace omni {

// What the runtime says, as a status: `what` is what was tried. Unavailable, for the device is gone or
// refuses.
absl::Status DeviceStatus(kernels::device::Failure failure, const char* what);
// Whether DeviceStatus made it: no other Unavailable says that a device is gone.
bool IsDeviceFailure(const absl::Status& status);

class DevicePool;

// Owns bytes of the device; what is made of it are views. Empty after a move.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer() { Release(); }
  uint8_t* data() const { return data_; }
  template <typename T>
  T* as(int64_t offset = 0) const {
    return reinterpret_cast<T*>(data_ + offset);
  }
  int64_t bytes() const { return bytes_; }

 private:
  friend class DevicePool;
  void Release();
  std::shared_ptr<DevicePool> pool_;
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
};

// Every byte that is taken of a device goes through one of these. Memory may be given back from any thread;
// the rest is one thread's at a time.
class DevicePool : public std::enable_shared_from_this<DevicePool> {
 public:
  // cap: the most bytes that are given out, 0 for as many as the device has. Unavailable: no such device.
  static absl::StatusOr<std::shared_ptr<DevicePool>> Open(int device, int64_t cap);
  ~DevicePool();

  // ResourceExhausted, where the cap or the device is full: the message says what for, and what would do.
  absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes, const char* what);
  int64_t used() const { return used_.load(std::memory_order_relaxed); }
  int64_t cap() const { return cap_; }
  int64_t left() const;  // of the cap, or of what was free when it was opened
  // Makes it the calling thread's device, which all that is asked of it needs.
  void Enter() const;
  const kernels::device::Properties& properties() const { return properties_; }

 private:
  friend class DeviceBuffer;
  DevicePool() = default;
  kernels::device::Properties properties_;
  int number_ = 0;
  int64_t cap_ = 0;
  std::atomic<int64_t> used_{0};
};

// Memory of the host that a device copies from and to by itself.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(PinnedBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~PinnedBuffer();
  static absl::StatusOr<PinnedBuffer> Make(int64_t bytes);
  template <typename T>
  T* as(int64_t offset = 0) const {
    return reinterpret_cast<T*>(data_ + offset);
  }

 private:
  uint8_t* data_ = nullptr;
};

}  // namespace omni
