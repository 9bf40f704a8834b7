#include "cli/place.h"

#include <string>

#include <absl/strings/str_cat.h>

namespace omni::cli {

absl::Status RefuseGiven(std::initializer_list<const GivenFlags*> flags, const char* why) {
  for (const GivenFlags* given : flags) {
    if (const std::string idle = given->First(); !idle.empty()) return UsageError(absl::StrCat(idle, why));
  }
  return absl::OkStatus();
}

absl::StatusOr<Place> ChoosePlace(const PlaceFlags& flags) {
  const bool cluster = !flags.cluster.cluster.empty(), server = !flags.server.server.empty();
  if (cluster && server) return UsageError("--cluster and --server both say who answers; leave one out");
  if (server) {
    if (absl::Status s = RefuseGiven({&flags.sampler.unknown_to_servers()},
                                     " is nothing that a server could be told; leave it out");
        !s.ok())
      return s;
    if (absl::Status s =
            RefuseGiven({&flags.of_this_process, &flags.stream.given(), &flags.cluster.given_of_nodes()},
                        " does nothing beside --server: the model is there; leave one out");
        !s.ok())
      return s;
    return Place::kServer;
  }
  if (absl::Status s =
          RefuseGiven({&flags.server.given_beside()}, " does nothing without --server; leave it out");
      !s.ok())
    return s;
  if (!cluster) {
    if (absl::Status s =
            RefuseGiven({&flags.cluster.given_beside()}, " does nothing without --cluster; leave it out");
        !s.ok())
      return s;
    return Place::kHere;
  }
  if (flags.model_typed) {
    return UsageError(
        "--model does nothing beside --cluster: the cluster's nodes have the model; leave one out");
  }
  if (absl::Status s =
          RefuseGiven({&flags.of_this_process, &flags.stream.given()},
                      " does nothing beside --cluster: the cluster's nodes have the model; leave one out");
      !s.ok())
    return s;
  return Place::kCluster;
}

}  // namespace omni::cli
