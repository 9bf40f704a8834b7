#include "engine/base/random.h"

#include <sys/random.h>

#include <cstdio>

namespace omni {

uint64_t SystemRandom() {
  uint64_t number = 0;
  // Of eight bytes the call does not fail once the system's pool is filled, for which it waits.
  while (::getrandom(&number, sizeof number, 0) != sizeof number) {
  }
  return number;
}

std::string RandomHex(size_t digits) {
  std::string hex;
  while (hex.size() < digits) {
    char some[17];
    std::snprintf(some, sizeof some, "%016llx", static_cast<unsigned long long>(SystemRandom()));
    hex += some;
  }
  hex.resize(digits);
  return hex;
}

}  // namespace omni
