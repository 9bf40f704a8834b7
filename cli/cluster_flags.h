// Flags of every verb that talks to a cluster.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cli/verb.h"
#include "cluster/cluster_client.h"

namespace omni::cli {

// HOST:PORT[,HOST:PORT...] as a list; a usage error, naming the flag, for an entry that is none.
absl::StatusOr<std::vector<std::string>> ReadAddresses(const std::string& flag, const std::string& text);

class ClusterFlags {
 public:
  std::string cluster, certificates, key;
  bool allow_plain = false;

  void Add(Verb& verb);
  const GivenFlags& given() const { return all_; }
  const GivenFlags& given_beside() const { return beside_; }      // all but --cluster
  const GivenFlags& given_of_nodes() const { return of_nodes_; }  // what nodes alone are shown
  // What the flags say, of the cluster or, without --cluster, of an omni serve of this machine where it
  // listens by default; an error of usage for a list of addresses that is none.
  absl::StatusOr<ClusterClientOptions> ClientOptions() const;
  absl::StatusOr<std::unique_ptr<ClusterClient>> Connect() const;

 private:
  GivenFlags all_, beside_, of_nodes_;
};

}  // namespace omni::cli
