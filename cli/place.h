// Where an answer is made, and which flags say something about it there.
#pragma once

#include <initializer_list>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cli/cluster_flags.h"
#include "cli/sampler_flags.h"
#include "cli/server_flags.h"
#include "cli/stream_flags.h"
#include "cli/verb.h"

namespace omni::cli {

enum class Place { kHere, kServer, kCluster };

// A usage error that names the first flag of these that was given, and goes on with `why`; OK: none was.
absl::Status RefuseGiven(std::initializer_list<const GivenFlags*> flags, const char* why);

// The flags of a verb whose answers may be made in any place.
struct PlaceFlags {
  const SamplerFlags& sampler;
  const StreamFlags& stream;
  const ClusterFlags& cluster;
  const ServerFlags& server;
  const GivenFlags& of_this_process;
  bool model_typed;
};

// Usage errors: two places are named, or a flag that does nothing in the one that is.
absl::StatusOr<Place> ChoosePlace(const PlaceFlags& flags);

}  // namespace omni::cli
