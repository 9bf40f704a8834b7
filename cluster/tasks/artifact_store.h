// What programs leave behind for whoever handed their task in: files, by the hash of their bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

// A part of a file.
struct ArtifactPiece {
  std::string data;
  int64_t size = 0;  // of the whole
};

// Thread-safe. A folder has the first two digits of its files' hashes as folders. Until when a file is kept
// is its time of modification, which lies ahead: the latest of all tasks that left it.
class ArtifactStore {
 public:
  static constexpr char kScheme[] = "sha256:";
  static constexpr std::chrono::hours kSweepEvery{1};
  static constexpr int64_t kMostCompared = int64_t{1} << 30;

  // Makes the folder, and sweeps it.
  static absl::StatusOr<ArtifactStore> Open(std::string folder);

  struct Limits {
    int64_t files = 0, bytes = 0;
  };
  // Every regular file below `folder`, links not followed, is kept for so long from now on and then told: its
  // name there, and where it is, kScheme and 64 hex digits. They last when they are told. ResourceExhausted:
  // they are more than may be; those that were told are kept. Sweeps, if nobody has for kSweepEvery.
  absl::Status Collect(const std::string& folder, const Limits& limits, std::chrono::milliseconds keep,
                       const std::function<void(std::string_view name, std::string_view where)>& tell) const;
  // The file of what Collect told; InvalidArgument: that is no such text.
  absl::StatusOr<std::string> PathOf(std::string_view where) const;
  // Bytes of what Collect told, from `offset` on, `most` of them or up to its end. With the first ones the
  // whole is read and its hash compared if it has up to kMostCompared bytes: of more, whoever reads all of it
  // has to compare, as RemoteTasks::FetchArtifact does, or the first piece would be waited for in vain.
  // NotFound: it is not here, or no more; DataLoss: it is damaged; OutOfRange: it has no such offset.
  absl::StatusOr<ArtifactPiece> Read(std::string_view where, int64_t offset, int64_t most) const;
  // Removes what is to be kept no longer.
  void Sweep() const;

 private:
  struct Shared {
    std::mutex mutex;  // while a file takes a place, and while it is removed from it
    std::chrono::steady_clock::time_point swept{};
  };
  explicit ArtifactStore(std::string folder)
      : folder_(std::move(folder)), shared_(std::make_shared<Shared>()) {}
  absl::StatusOr<std::string> Keep(int fd, const std::string& name, int64_t most,
                                   std::chrono::milliseconds keep, int64_t& bytes) const;
  absl::Status Place(int fd, const std::string& fresh, const std::string& path,
                     std::chrono::milliseconds keep) const;

  std::string folder_;
  std::shared_ptr<Shared> shared_;
};

}  // namespace omni
