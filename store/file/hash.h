// The store's checksums: XXH3 with seed 0 (`xxhsum -H2` prints the 128-bit one).
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace omni {

struct Hash128 {
  uint64_t high = 0, low = 0;
  auto operator<=>(const Hash128&) const = default;
  std::string Hex() const;  // 32 lower-case digits, high half first
  template <typename H>
  friend H AbslHashValue(H h, const Hash128& v) {
    return H::combine(std::move(h), v.high, v.low);
  }
};

uint64_t Checksum64(const void* data, size_t bytes);
Hash128 ContentHash(const void* data, size_t bytes);
inline Hash128 ContentHash(std::string_view bytes) { return ContentHash(bytes.data(), bytes.size()); }

// The 128-bit hash of bytes that arrive in pieces.
class StreamHash {
 public:
  StreamHash();
  ~StreamHash();
  void Update(const void* data, size_t bytes);
  void Update(std::string_view bytes) { Update(bytes.data(), bytes.size()); }
  Hash128 Digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The 64-bit checksum of bytes that arrive in pieces.
class StreamChecksum {
 public:
  StreamChecksum();
  ~StreamChecksum();
  void Restart();
  void Update(const void* data, size_t bytes);
  uint64_t Value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace omni
