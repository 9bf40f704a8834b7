// Where a program that was built without the device's code gets it from: a shared library, found when it is
// first needed. Until then, and without one, the functions of kernels/device/device.h say that there is no
// device.
#pragma once

#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "kernels/device/table.h"

namespace omni {

inline constexpr char kDeviceLibrary[] = "libomni_cuda.so";
inline constexpr char kDeviceLibraryVariable[] = "OMNI_DEVICE_LIBRARY";

// The library that is in use: one for the process, looked for at the first call, as the file that
// OMNI_DEVICE_LIBRARY names, else beside this program and in ../lib/omni from there. Its path. NotFound:
// there is none; the message names the places. FailedPrecondition: it cannot be used; why. Thread-safe.
absl::StatusOr<std::string> LoadDeviceLibrary();

// What LoadDeviceLibrary uses. The table of the library `path`, which stays loaded. FailedPrecondition: it
// cannot be loaded, is none of Omni's, or was made from another version's source.
absl::StatusOr<const kernels::device::Table*> ReadDeviceLibrary(const std::string& path);
// The places for a program in `folder`; `named`: what the variable says, or null.
std::vector<std::string> DeviceLibraryPlaces(const std::string& folder, const char* named);

}  // namespace omni
