// Files that are read again when others take their place, while what was read of them is in use.
//
//     FileReloader reloader({certificate, key}, [this] { return TakePair(); },
//                           [](const absl::Status& why) { LogWarning(...); });
//     if (absl::Status s = reloader.Open(); !s.ok()) return s;
//     reloader.Look();   // whenever what is in the files is about to be used
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>

namespace omni {

// Thread-safe after Open.
class FileReloader {
 public:
  using Ticks = std::function<std::chrono::steady_clock::time_point()>;
  // `read` reads the files and takes what is in them; if it cannot, it takes nothing and says why. One thread
  // at a time. `failed` is told why, once for as long as it stays the same.
  FileReloader(std::vector<std::string> paths, std::function<absl::Status()> read,
               std::function<void(const absl::Status&)> failed, Ticks ticks = std::chrono::steady_clock::now);
  ~FileReloader();

  // Reads for the first time; `failed` is not told. Once, before all else.
  absl::Status Open();
  // If nobody looked within the last second, and the files are others than those that were taken last, reads
  // them. What could not be taken is tried again every second, whether it changes or not: what was wrong may
  // have been the moment. Nobody waits for whoever reads.
  void Look();

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace omni
