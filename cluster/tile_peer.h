// Another node, as somebody sees it who fetches parts of a model from there.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/file/files.h"
#include "store/format/manifest.h"
#include "store/format/present_tiles.h"

namespace grpc {
class ChannelCredentials;
}

namespace omni {

// Calls wait, each at most `timeout`; their errors, but for those of `take`, begin with the address and have
// the code that the peer gave, or Unavailable if it cannot be reached, DeadlineExceeded, Cancelled. What a
// peer says is never believed here beyond its form. Thread-safe.
class TilePeer {
 public:
  // `credentials` null: in the clear, which is for loopback.
  TilePeer(std::string address, const std::shared_ptr<grpc::ChannelCredentials>& credentials,
           std::chrono::milliseconds timeout);
  ~TilePeer();

  const std::string& address() const { return address_; }

  struct Description {
    FileTable files;
    std::vector<int32_t> regions;
  };
  absl::StatusOr<Description> Describe(const std::string& model_hash);

  // The file from `offset` on, in pieces; ends with the first error of `take`.
  absl::Status FetchFile(const std::string& model_hash, const std::string& name, int64_t offset,
                         const std::function<absl::Status(std::string_view)>& take);
  // Each of the tiles once, in any order; empty bytes: the peer does not have it. Ends with the first error
  // of `take`. `tiles` ascend.
  absl::Status FetchTiles(const std::string& model_hash, const std::vector<TilePlace>& tiles,
                          const std::function<absl::Status(TilePlace, std::string_view)>& take);

  void Cancel();  // all calls, under way and to come

 private:
  class Impl;
  const std::string address_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
