// Filling a part of a model from other nodes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "store/partial/partial_model.h"

namespace grpc {
class ChannelCredentials;
}

namespace omni {

struct FillProgress {
  int64_t tiles = 0, tiles_wanted = 0;
  int64_t bytes = 0, bytes_wanted = 0;  // of tiles: none is counted twice, and none that was there before
  double bytes_per_second = 0;          // since the fill began
};

struct FillOptions {
  std::vector<std::string> peers;                         // HOST:PORT, best first
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // null: in the clear, which is for loopback
  int64_t bytes_per_second =
      0;            // tiles come no faster, so that decoding has its share; 0: as fast as they do
  int fetches = 4;  // calls at a time, over all peers; at most two with one
  int64_t batch_bytes = 8 << 20;    // asked for in one call; at least one tile
  int64_t commit_bytes = 64 << 20;  // recorded at a time: what a crash may cost
  // A peer that gives nothing useful so many times in a row is not asked again; between two times passes
  // `backoff`, twice as long after each, at most 5 s.
  int attempts = 5;
  std::chrono::milliseconds backoff{100};
  std::chrono::milliseconds call_timeout{30000};
  std::function<void(const FillProgress&)> progress;  // after every batch, by one thread at a time
  std::stop_token stop;
};

// All of these wait; what was fetched stays, whatever they return, and a later call goes on from there.
// Every byte is checked against the model's hash or what follows from it before it is written; a peer that
// sends others is named on the log, and the next is asked. Cancelled: `stop` was asked for. Unavailable: no
// peer has what is missing, or none can be reached; the message says what became of each. A disk's errors as
// PartialModel's.

// The model in `dir`; an empty directory is made a part of the model with that hash first.
// FailedPrecondition: it is another model.
absl::StatusOr<std::unique_ptr<PartialModel>> OpenOrBeginPartial(const std::string& dir,
                                                                 const std::string& model_hash,
                                                                 const FillOptions& options);

// Fetches what is missing of these regions, from all peers at once. What the regions share comes once. Not
// two at a time for one model.
absl::Status FillRegions(PartialModel& model, std::span<const RegionId> regions, const FillOptions& options);

// Fetches shared weights and tokenizer, if they are not there.
absl::Status FillFiles(PartialModel& model, const FillOptions& options);

}  // namespace omni
