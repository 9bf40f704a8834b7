// Measured speeds of this machine, kept in the state directory: a measurement takes seconds, a plan should
// not.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/plan/disk_speed.h"
#include "store/plan/memory_speed.h"

namespace omni {

template <typename Speed>
struct Dated {
  Speed speed;
  int64_t time = 0;  // seconds since 1970 when it was measured
};

// One file of speeds, JSON. Figures of another CPU model, from the future, or older than 30 days are as good
// as not there; a file that is damaged or of another shape is as good as empty, and moved aside by the next
// Keep (store/state/state_file.h).
class SpeedFile {
 public:
  static constexpr int64_t kMaxAgeSeconds = 30 * 24 * 3600;

  // `path` need not exist; `cpu` is this machine's model, `now` the time in seconds since 1970.
  SpeedFile(std::string path, std::string cpu, int64_t now);

  std::optional<Dated<MemorySpeed>> Memory(int threads) const;
  // `device` names the disk; the figures are of blocks of block_bytes.
  std::optional<Dated<DiskSpeed>> Disk(const std::string& device, int64_t block_bytes) const;

  int64_t now() const { return now_; }

  // Each writes the whole file, through a temporary one beside it; missing directories are made. Of two
  // programs at the same time the last one's figures stay.
  absl::Status Keep(const MemorySpeed& speed) const;
  absl::Status Keep(const std::string& device, const DiskSpeed& speed) const;

 private:
  std::string path_, cpu_;
  int64_t now_;
};

// speeds.json in the state directory, for this machine and now. Without a state directory nothing is kept.
SpeedFile StateSpeedFile();

// The kept figure, or if there is none (or `refresh`) one measured now and kept; that it cannot be kept is no
// error.
absl::StatusOr<Dated<MemorySpeed>> CurrentMemorySpeed(const SpeedFile& file, bool refresh);
// Of the disk that `path`, a file or directory, lies on.
absl::StatusOr<Dated<DiskSpeed>> CurrentDiskSpeed(const SpeedFile& file, const std::string& path,
                                                  int64_t block_bytes, bool refresh);

}  // namespace omni
