// Something that any one of several nodes may give.
#pragma once

#include <functional>
#include <string>

#include <absl/status/status.h>

#include "cluster/tile_client.h"
#include "cluster/tile_peer.h"
#include "store/partial/incoming_file.h"

namespace omni {

// An error of this machine, which no peer can cure.
struct OwnError {
  absl::Status status;

  // Passes on what comes of a peer's bytes: DataLoss, InvalidArgument and FailedPrecondition are the peer's,
  // all other errors ours.
  absl::Status Of(const absl::Status& s) {
    if (!s.ok() && !absl::IsDataLoss(s) && !absl::IsInvalidArgument(s) && !absl::IsFailedPrecondition(s))
      status = s;
    return s;
  }
};

// Asks one peer after the other until one gives `what`, in rounds with longer and longer pauses. Waits.
// Unavailable: none does; Cancelled: stopped; else our own error.
absl::Status AskPeers(const FillOptions& options, const std::string& what,
                      const std::function<absl::Status(TilePeer&, OwnError&)>& ask);

}  // namespace omni
