// What attempts have left, wherever in the cluster it lies: on this node's disk, or on another's, which is
// asked.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>

#include <absl/status/statusor.h>

#include "cluster/executor.h"
#include "cluster/tasks/artifact_store.h"

namespace grpc {
class Channel;
class ChannelCredentials;
}  // namespace grpc

namespace omni {

// Thread-safe.
class ArtifactSource {
 public:
  static constexpr int64_t kMostPiece = 1 << 20;
  using Done = std::function<void(absl::StatusOr<ArtifactPiece>)>;

  // `credentials`: of whoever asks other nodes; null: none is asked.
  explicit ArtifactSource(std::shared_ptr<grpc::ChannelCredentials> credentials);
  ~ArtifactSource();  // calls under way are waited for

  // This node's; null: it keeps none. It outlives this, or is taken away again before.
  void SetOwn(std::string node, const ArtifactStore* store);
  // Of this node's own disk.
  void ReadOwn(const std::string& where, int64_t offset, Done done);
  // Of a node's, which is asked at `address`; empty: nobody knows where. Errors: ArtifactStore::Read's;
  // Unavailable: the node cannot be asked.
  void Read(const std::string& node, const std::string& address, const std::string& where, int64_t offset,
            Done done);

 private:
  absl::StatusOr<ArtifactPiece> ReadHere(const std::string& where, int64_t offset);
  absl::StatusOr<ArtifactPiece> Ask(const std::string& node, const std::string& address,
                                    const std::string& where, int64_t offset);

  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  std::shared_mutex mutex_;  // shared while the store is read
  std::string node_;
  const ArtifactStore* store_ = nullptr;
  std::mutex channels_mutex_;
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels_;
  std::unique_ptr<Executor> threads_;  // goes first
};

}  // namespace omni
