// A model opened in this process, for verbs that decode here.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "cli/device_flags.h"
#include "cli/stream_flags.h"
#include "cluster/node.h"

namespace omni::cli {

// `path` opened as the flags say; `threads`, `ctx` and `polytopes` as their flags have them; `memory`: the
// folder of it, or empty: none; `states`: so many sessions' are planned for, where memory is planned. Errors:
// StreamFlags::Options's, DeviceFlags::Choice's and Node::Start's.
absl::StatusOr<std::unique_ptr<Node>> OpenNode(const std::string& path, const StreamFlags& stream,
                                               int64_t threads, int64_t ctx, const DeviceFlags& device,
                                               const std::string& polytopes = "",
                                               const std::string& memory = "", int64_t states = 1);

}  // namespace omni::cli
