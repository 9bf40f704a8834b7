// What sessions hold in common.
#pragma once

#include <cstdint>
#include <vector>

#include "actors/session.h"

namespace omni {

// Their adapters and memories of texts: each counts once, however many have it.
class HeldInCommon {
 public:
  explicit HeldInCommon(int64_t d) : d_(d) {}  // the model's width

  void Add(const Session& session);
  int64_t bytes() const { return bytes_; }          // of those added
  int64_t BytesWith(const Session& session) const;  // what this one would add

 private:
  bool IsNew(const void* held) const;

  const int64_t d_;
  std::vector<const void*> held_;
  int64_t bytes_ = 0;
};

}  // namespace omni
