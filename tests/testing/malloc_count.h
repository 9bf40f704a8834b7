// What is allocated, counted at malloc. A program that links this has its own malloc.
#pragma once

#include <cstdint>

namespace omni::testing {

// False under sanitizers, whose malloc counts nothing here.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kCountsMalloc = false;
#else
inline constexpr bool kCountsMalloc = true;
#endif

// Of the whole process, with what the allocator rounds up to. Thread-safe.
int64_t BytesInUse();
int64_t MostBytesInUse();  // since the last ForgetMost
void ForgetMost();
// From now on malloc, and so new, gives no more than so many bytes at once; INT64_MAX: what there is.
void RefuseAbove(int64_t bytes);

// The most that `work` had in use beside what was there before it.
template <typename Work>
int64_t MostBytesOf(Work&& work) {
  const int64_t before = BytesInUse();
  ForgetMost();
  work();
  return MostBytesInUse() - before;
}

}  // namespace omni::testing
