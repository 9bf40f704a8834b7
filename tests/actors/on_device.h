// Where the swarms of a test compute: on the CPU, or, in a program that is built with OMNI_FIBERS (the path
// of the device's source on fibers as a library), on that device.
#pragma once

#include <cstdlib>

#include "actors/swarm.h"

namespace omni::testing {

#ifdef OMNI_FIBERS
inline constexpr bool kOnDevice = true;  // a hundred times as slow
#else
inline constexpr bool kOnDevice = false;
#endif

// experts_outside: regions compute the experts, as always where links are faulty.
inline SwarmOptions OnDevice(SwarmOptions options, [[maybe_unused]] bool experts_outside = false) {
#ifdef OMNI_FIBERS
  setenv("OMNI_DEVICE_LIBRARY", OMNI_FIBERS, 1);
  options.device.kind = DeviceChoice::Kind::kCuda;
  if (options.make_link || experts_outside) options.device.experts = DeviceSettings::ExpertsAt::kOutside;
#endif
  return options;
}

}  // namespace omni::testing
