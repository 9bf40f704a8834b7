#include "store/cache/slot_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20, kPage = 4096;

int64_t RoundUp(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

absl::Status NoMemory(int64_t bytes, int error) {
  return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes, " bytes of memory (",
                                                   std::strerror(error),
                                                   "); free some or use a machine with more"));
}

}  // namespace

absl::StatusOr<SlotMemory> SlotMemory::Reserve(int64_t bytes, int64_t most) {
  for (const int64_t wanted : {std::max(bytes, most), bytes}) {
    SlotMemory memory;
    const int64_t reserved = RoundUp(wanted, kPage) + kHugePage;
    void* const p = ::mmap(nullptr, static_cast<size_t>(reserved), PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      if (wanted == bytes) return NoMemory(bytes, errno);
      continue;
    }
    memory.mapping_ = static_cast<uint8_t*>(p);
    memory.reserved_ = reserved;
    memory.most_ = wanted;
    memory.data_ = memory.mapping_ + (-reinterpret_cast<uintptr_t>(p) & (kHugePage - 1));
    if (absl::Status s = memory.Resize(bytes); !s.ok()) return s;
    return memory;
  }
  return NoMemory(bytes, ENOMEM);
}

SlotMemory::~SlotMemory() {
  if (mapping_ != nullptr) ::munmap(mapping_, static_cast<size_t>(reserved_));
}

SlotMemory::SlotMemory(SlotMemory&& other) noexcept { *this = std::move(other); }

SlotMemory& SlotMemory::operator=(SlotMemory&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(data_, other.data_);
  std::swap(reserved_, other.reserved_);
  std::swap(most_, other.most_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

absl::Status SlotMemory::Resize(int64_t bytes) {
  if (bytes > most_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a cache of ", bytes, " bytes: the system allows this process address space for ", most_,
                     "; raise the limit (ulimit -v)"));
  }
  const int64_t from = RoundUp(std::min(bytes, bytes_), kPage), to = RoundUp(std::max(bytes, bytes_), kPage);
  const bool grows = bytes > bytes_;
  if (from < to) {
    const int protection = grows ? PROT_READ | PROT_WRITE : PROT_NONE;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | (grows ? 0 : MAP_NORESERVE);
    if (::mmap(data_ + from, static_cast<size_t>(to - from), protection, flags, -1, 0) == MAP_FAILED)
      return NoMemory(bytes, errno);
    // Advice only: without huge pages everything works, a little slower.
    if (grows) (void)::madvise(data_ + from, static_cast<size_t>(to - from), MADV_HUGEPAGE);
  }
  bytes_ = bytes;
  return absl::OkStatus();
}

}  // namespace omni
