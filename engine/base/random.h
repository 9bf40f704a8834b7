// Numbers and names that nobody foresees and nothing repeats, from the system; not for what must come out the
// same again (splitmix.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace omni {

// Both of any thread, and of a forked process too.
uint64_t SystemRandom();
// So many lower-case hex digits.
std::string RandomHex(size_t digits);

}  // namespace omni
