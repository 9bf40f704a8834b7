// What a node gives to others of the model it has: omni.cluster.v1.Tiles.
#pragma once

#include <cstdint>
#include <memory>

#include <absl/status/statusor.h>

#include "store/partial/partial_model.h"

namespace grpc {
class Service;
}

namespace omni {

// Every fetch has two messages in memory, one that is read and one that is sent.
struct TileServiceLimits {
  int fetches = 32;        // served at a time; more are refused as RESOURCE_EXHAUSTED
  int threads = 2;         // that read the disk, for all fetches
  int64_t tiles = 131072;  // of one request; more are INVALID_ARGUMENT
};

// Serves one directory, whole or partial, to any number of nodes. Tiles are checked when they are read, and
// only files that the model's manifests list are ever opened. Waits for nobody: a client that does not read
// stops its own fetch, and one that goes away ends it. Thread-safe.
class TileService {
 public:
  // Reads the manifests again for their digests.
  static absl::StatusOr<std::unique_ptr<TileService>> Make(std::shared_ptr<const PartialModel> model,
                                                           const TileServiceLimits& limits = {});
  ~TileService();  // after the server that it was registered with was shut down

  grpc::Service& service();  // for ServerBuilder::RegisterService

  struct Stats {
    int64_t tiles = 0, tile_bytes = 0;  // sent
    int64_t missing = 0;                // tiles that were answered as missing
    int64_t file_bytes = 0;             // sent
    int64_t refused = 0;                // fetches
  };
  Stats stats() const;

 private:
  class Impl;
  explicit TileService(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
