#include "store/file/hash.h"

#include <cstdio>

#include <xxhash.h>
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // the widest vectors that the processor has, not those of every x86-64
#endif

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

namespace {

struct FreeState {
  void operator()(XXH3_state_t* s) const { XXH3_freeState(s); }
};
using StatePointer = std::unique_ptr<XXH3_state_t, FreeState>;

}  // namespace

struct StreamHash::State {
  StatePointer xxh{XXH3_createState()};
};
struct StreamChecksum::State {
  StatePointer xxh{XXH3_createState()};
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

StreamChecksum::StreamChecksum() : state_(std::make_unique<State>()) { Restart(); }
StreamChecksum::~StreamChecksum() = default;

void StreamChecksum::Restart() { XXH3_64bits_reset(state_->xxh.get()); }

void StreamChecksum::Update(const void* data, size_t bytes) {
  XXH3_64bits_update(state_->xxh.get(), data, bytes);
}

uint64_t StreamChecksum::Value() const { return XXH3_64bits_digest(state_->xxh.get()); }

}  // namespace omni
