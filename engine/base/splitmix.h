// Random numbers by counter: the n-th number of a seed, without state, the same on every machine.
#pragma once

#include <cstdint>

namespace omni {

// The finaliser of splitmix64 (Steele, Lea, Flood 2014): a bijection whose output bits each depend on every
// input bit.
constexpr uint64_t SplitMix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Number `counter` of `seed`. The seed is mixed first, so that neighbouring seeds do not give shifted
// sequences.
constexpr uint64_t CounterRandom(uint64_t seed, uint64_t counter) {
  return SplitMix64(SplitMix64(seed) + counter * 0x9e3779b97f4a7c15u);
}

// The same as a double in [0, 1), a multiple of 2^-53.
constexpr double CounterUniform(uint64_t seed, uint64_t counter) {
  return static_cast<double>(CounterRandom(seed, counter) >> 11) * 0x1p-53;
}

}  // namespace omni
