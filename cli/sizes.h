// Amounts of memory as people type and read them: 26G, 2684M, 1.5T; 20.0 GiB.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <absl/status/statusor.h>

namespace omni::cli {

// Bytes of a number above 0, plain or with one of K, M, G and T (powers of 1024; either case; "iB" may
// follow). Fractions are allowed, and parts of a byte are dropped. InvalidArgument: one line that names the
// text.
absl::StatusOr<int64_t> ParseSize(std::string_view text);

// In the largest unit that leaves 1 or more; below a GiB in whole units: 512 B, 41 MiB, 2.61 GiB, 20.0 GiB.
std::string SizeText(int64_t bytes);

}  // namespace omni::cli
