// How fast expert tiles come from a disk.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include <absl/status/statusor.h>

namespace omni {

struct DiskSpeed {
  double random_bytes_per_s = 0;      // blocks of block_bytes at random places, reads_in_flight at a time
  double sequential_bytes_per_s = 0;  // blocks of 1 MiB one after the other, reads_in_flight at a time
  int64_t block_bytes = 0;            // a multiple of 4096
  int reads_in_flight = 0;
  int64_t span_bytes = 0;  // of the files that were read from
  bool direct = false;     // past the page cache; if not, the figures may be the cache's
};

struct DiskSpeedOptions {
  int64_t block_bytes = 64 << 10;         // rounded up to a multiple of 4096; a pack file's stride
  int reads_in_flight = 16;               // each a thread of its own
  std::chrono::milliseconds limit{1000};  // for each of the two figures
  int64_t free_bytes = INT64_MAX;         // of memory, that a new program may take (Machine::FreeMemory)
};

// Reads `path`, or all files below a directory, with O_DIRECT where the file system allows it. Nothing is
// written. Errors name the path: NotFound, FailedPrecondition if no file is as long as a block, or
// ResourceExhausted if the buffer of 64 MiB or more is over half of free_bytes: reads into less, which caches
// hold, are faster than those of a model. Blocks for up to twice the limit and a read.
absl::StatusOr<DiskSpeed> MeasureDiskSpeed(const std::string& path, const DiskSpeedOptions& options);

// Whether one block of the first file that is long enough can be read with O_DIRECT. Errors as above.
absl::StatusOr<bool> ReadsDirectly(const std::string& path);

}  // namespace omni
