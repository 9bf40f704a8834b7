#include "store/hash.h"

#include <cstdio>

#include <xxhash.h>

namespace omni {

std::string Hash128::Hex() const {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(high),
                static_cast<unsigned long long>(low));
  return text;
}

uint64_t Checksum64(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

Hash128 ContentHash(const void* data, size_t bytes) {
  const XXH128_hash_t h = XXH3_128bits(data, bytes);
  return {h.high64, h.low64};
}

struct StreamHash::State {
  struct Free {
    void operator()(XXH3_state_t* s) const { XXH3_freeState(s); }
  };
  std::unique_ptr<XXH3_state_t, Free> xxh{XXH3_createState()};
};

StreamHash::StreamHash() : state_(std::make_unique<State>()) { XXH3_128bits_reset(state_->xxh.get()); }
StreamHash::~StreamHash() = default;

void StreamHash::Update(const void* data, size_t bytes) {
  XXH3_128bits_update(state_->xxh.get(), data, bytes);
}

Hash128 StreamHash::Digest() const {
  const XXH128_hash_t h = XXH3_128bits_digest(state_->xxh.get());
  return {h.high64, h.low64};
}

}  // namespace omni
