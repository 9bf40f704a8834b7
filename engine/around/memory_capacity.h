// How much an associative memory holds, measured beside what theory expects.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/around/memory_banks.h"

namespace omni {

struct CapacityPoint {
  int64_t items = 0;
  double load = 0;                                 // associations a bank
  double exact = 0, exact_expected = 0;            // share of keys whose value came back
  double noisy = 0, noisy_expected = 0;            // the same with a tenth of the key's bits wrong
  double lookup_median_us = 0, lookup_p99_us = 0;  // of the exact keys
  double noisy_median_us = 0;
  double add_us = 0;
  int64_t bytes = 0;
};

// One memory of `shape`, filled with random associations and asked when it holds each of `items`, ascending.
// `asked` keys of each kind, spread over all that were added. The shares are the same on every machine.
std::vector<CapacityPoint> MeasureCapacity(const std::vector<int64_t>& items, int64_t asked,
                                           const MemoryShape& shape = {});

}  // namespace omni
