#include "tests/testing/malloc_count.h"

#include <malloc.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace omni::testing {
namespace {

std::atomic<int64_t> in_use{0}, most_in_use{0}, most_at_once{INT64_MAX};

}  // namespace

int64_t BytesInUse() { return in_use; }
int64_t MostBytesInUse() { return most_in_use; }
void ForgetMost() { most_in_use = in_use.load(); }
void RefuseAbove(int64_t bytes) { most_at_once = bytes; }

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
namespace {

void Took(void* p) {
  if (p == nullptr) return;
  const int64_t now = in_use += static_cast<int64_t>(malloc_usable_size(p));
  int64_t most = most_in_use;
  while (now > most && !most_in_use.compare_exchange_weak(most, now)) {
  }
}
void Gives(void* p) {
  if (p != nullptr) in_use -= static_cast<int64_t>(malloc_usable_size(p));
}

}  // namespace

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);

void* malloc(size_t n) {
  if (n > static_cast<size_t>(most_at_once)) return nullptr;
  void* const p = __libc_malloc(n);
  Took(p);
  return p;
}
void* calloc(size_t n, size_t size) {
  void* const p = __libc_calloc(n, size);
  Took(p);
  return p;
}
void* realloc(void* old, size_t n) {
  Gives(old);
  void* const p = __libc_realloc(old, n);
  Took(p);
  return p;
}
void* memalign(size_t alignment, size_t n) {
  void* const p = __libc_memalign(alignment, n);
  Took(p);
  return p;
}
void* aligned_alloc(size_t alignment, size_t n) { return memalign(alignment, n); }
int posix_memalign(void** to, size_t alignment, size_t n) {
  void* const p = memalign(alignment, n);
  if (p != nullptr) *to = p;
  return p != nullptr ? 0 : ENOMEM;
}
void free(void* p) {
  Gives(p);
  __libc_free(p);
}
}
#endif

}  // namespace omni::testing
