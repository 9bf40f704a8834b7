// Flags of a door that others come in by: keys, TLS, and whose pages may ask.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cli/verb.h"
#include "cluster/access.h"
#include "cluster/cluster_node.h"
#include "cluster/http/http_door.h"
#include "cluster/http/http_server.h"

namespace omni::cli {

inline constexpr char kNoKeys[] = "none";  // in the place of a file of keys: none are wanted

class DoorFlags {
 public:
  void Add(Verb& verb);

  // What they say: of what guards the HTTP door (null keys: whoever reaches it may come in), and of its
  // server. Errors: usage, or those of the files.
  absl::Status Apply(HttpDoor::Behind& behind, HttpServerOptions& server) const;
  // And of the node's own door, once that is known.
  void Apply(const HttpDoor::Behind& behind, const HttpServerOptions& server, ClusterNodeOptions& node) const;
  int64_t most_tokens() const { return most_tokens_; }  // of one answer
  // Whose keys are wanted, and whether there is TLS, for whoever starts it; empty: neither.
  static std::string Describe(const HttpDoor::Behind& behind, const HttpServerOptions& server);

 private:
  std::string keys_, certificate_, key_;
  std::vector<std::string> cors_origins_;
  int64_t requests_ = -1;  // not said
  int64_t tokens_per_minute_ = 0, most_tokens_ = int64_t{1} << 40, body_ = 8 << 20;
  std::chrono::milliseconds time_ = std::chrono::hours(1);
};

}  // namespace omni::cli
