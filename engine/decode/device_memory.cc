#include "engine/decode/device_memory.h"

#include <algorithm>

#include <absl/strings/cord.h>
#include <absl/strings/str_cat.h>

namespace omni {

namespace device = kernels::device;

namespace {

constexpr char kFailureUrl[] = "omni/device";

}  // namespace

absl::Status DeviceStatus(device::Failure failure, const char* what) {
  if (!failure) return absl::OkStatus();
  absl::Status status =
      absl::UnavailableError(absl::StrCat("device: ", what, ": ", device::FailureText(failure)));
  status.SetPayload(kFailureUrl, absl::Cord());
  return status;
}

bool IsDeviceFailure(const absl::Status& status) { return status.GetPayload(kFailureUrl).has_value(); }

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void DeviceBuffer::Release() {
  if (data_ == nullptr) return;
  device::Free(data_);
  pool_->used_ -= bytes_;
}

absl::StatusOr<std::shared_ptr<DevicePool>> DevicePool::Open(int number, int64_t cap) {
  const int count = device::Count();
  if (number < 0 || number >= count) {
    return absl::UnavailableError(
        absl::StrCat("device ", number, ": this machine has ", count, " CUDA devices that can be used",
                     count == 0 ? "; is there a GPU, and NVIDIA's driver for it?" : ", numbered from 0"));
  }
  const std::shared_ptr<DevicePool> pool(new DevicePool);
  if (absl::Status s = DeviceStatus(device::Use(number), "choosing it"); !s.ok()) return s;
  if (absl::Status s = DeviceStatus(device::Describe(number, &pool->properties_), "its properties"); !s.ok())
    return s;
  pool->number_ = number;
  pool->cap_ = cap;
  return pool;
}

DevicePool::~DevicePool() = default;

int64_t DevicePool::left() const {
  return std::max<int64_t>(0, (cap_ > 0 ? cap_ : properties_.free_bytes) - used());
}

// What goes wrong here goes wrong again with what is asked next.
void DevicePool::Enter() const { static_cast<void>(device::Use(number_)); }

absl::StatusOr<DeviceBuffer> DevicePool::Allocate(int64_t bytes, const char* what) {
  const int64_t used = used_.fetch_add(bytes);  // before it is asked for, so that two cannot pass the cap
  if (cap_ > 0 && used + bytes > cap_) {
    used_ -= bytes;
    return absl::ResourceExhaustedError(absl::StrCat("device memory: ", what, " takes ", bytes,
                                                     " bytes, and ", used, " of the cap of ", cap_,
                                                     " are in use; allow at least ", used + bytes));
  }
  void* memory = nullptr;
  if (const device::Failure failure = device::Allocate(bytes, &memory)) {
    used_ -= bytes;
    return absl::ResourceExhaustedError(
        absl::StrCat("device memory: ", bytes, " bytes for ", what, ": ", device::FailureText(failure)));
  }
  DeviceBuffer buffer;
  buffer.pool_ = shared_from_this();
  buffer.data_ = static_cast<uint8_t*>(memory);
  buffer.bytes_ = bytes;
  return buffer;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) device::FreePinned(data_);
}

absl::StatusOr<PinnedBuffer> PinnedBuffer::Make(int64_t bytes) {
  void* memory = nullptr;
  if (const device::Failure failure = device::AllocatePinned(bytes, &memory)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("pinned memory: ", bytes, " bytes: ", device::FailureText(failure)));
  }
  PinnedBuffer buffer;
  buffer.data_ = static_cast<uint8_t*>(memory);
  return buffer;
}

}  // namespace omni
