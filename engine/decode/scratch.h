// A 64-byte aligned array that grows and never shrinks, for buffers that every step reuses.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

namespace omni {

template <typename T>
class Scratch {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  // At least n elements. Growing forgets what was there: the new elements are unset. Throws std::bad_alloc.
  T* Reserve(int64_t n) {
    if (n > size_) {
      data_.reset();
      size_ = 0;
      const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
      data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
      if (data_ == nullptr) throw std::bad_alloc();
      size_ = n;
    }
    return data_.get();
  }
  T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t size_ = 0;
};

}  // namespace omni
