// What using a model leaves behind, never in the model's directory: $XDG_STATE_HOME/omni, or
// ~/.local/state/omni.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni {

// Not created here. Error: neither variable is set.
absl::StatusOr<std::string> StateDir();

// How often each expert of each layer was asked, over all runs of one model.
struct RoutingCounts {
  int64_t layers = 0, experts = 0;
  std::vector<int64_t> rows;  // [layers, experts]
};

// Adds the counts to routing-<model hash>.json in `dir`, which is created if need be: read, added and
// replaced whole under a lock, so that runs at the same time lose nothing. A damaged file is moved aside
// (store/state/state_file.h), and counting begins anew.
absl::Status AddRoutingCounts(const std::string& dir, const std::string& model_hash,
                              const RoutingCounts& counts);

}  // namespace omni
