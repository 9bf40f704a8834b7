// The memory of a cache's slots: address space for the most there may ever be, memory for those there are.
#pragma once

#include <cstdint>
#include <span>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

// Begins at a multiple of 2 MiB, on huge pages where the system has them. Not thread-safe, but for data().
class SlotMemory {
 public:
  // Of `bytes` bytes, which may grow to `most`; where the system does not allow so much address space, they
  // may not grow.
  static absl::StatusOr<SlotMemory> Reserve(int64_t bytes, int64_t most);
  SlotMemory() = default;
  ~SlotMemory();
  SlotMemory(SlotMemory&& other) noexcept;
  SlotMemory& operator=(SlotMemory&& other) noexcept;

  uint8_t* data() const { return data_; }  // never changes
  int64_t bytes() const { return bytes_; }
  // What lies below both sizes keeps its bytes; what is beyond the new one is given back to the system.
  // ResourceExhausted: it has no more, and nothing has changed.
  absl::Status Resize(int64_t bytes);

 private:
  uint8_t* mapping_ = nullptr;
  uint8_t* data_ = nullptr;
  int64_t reserved_ = 0;  // of the mapping
  int64_t most_ = 0, bytes_ = 0;
};

}  // namespace omni
