// What programs leave behind for whoever handed their task in: files, by the hash of their bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

// Thread-safe. A folder has the first two digits of its files' hashes as folders.
class ArtifactStore {
 public:
  static constexpr char kScheme[] = "sha256:";

  // Makes the folder; what was kept last longer than `keep` ago is removed.
  static absl::StatusOr<ArtifactStore> Open(std::string folder, std::chrono::hours keep);

  struct Limits {
    int64_t files = 0, bytes = 0;
  };
  // Every regular file below `folder`, links not followed, is kept and then told: its name there, and where
  // it is, kScheme and 64 hex digits. They last when they are told. ResourceExhausted: they are more than may
  // be; those that were told are kept.
  absl::Status Collect(const std::string& folder, const Limits& limits,
                       const std::function<void(std::string_view name, std::string_view where)>& tell) const;
  // The file of what Collect told; InvalidArgument: that is no such text.
  absl::StatusOr<std::string> PathOf(std::string_view where) const;

 private:
  explicit ArtifactStore(std::string folder) : folder_(std::move(folder)) {}
  absl::StatusOr<std::string> Keep(int fd, const std::string& name, int64_t most, int64_t& bytes) const;

  std::string folder_;
};

}  // namespace omni
