// How verbs that serve stay until they are to end.
#pragma once

#include <chrono>
#include <string>

#include "cluster/cluster_node.h"

namespace omni::cli {

// Returns once an interrupt is asked for (engine/base/interrupt.h). Tells the service manager, if one started
// this process: that `what` is there, then that the node lives as long as its actors do, and at the end that
// the rest takes up to `drain`.
void ServeUntilInterrupted(ClusterNode& node, const std::string& what, std::chrono::milliseconds drain);

}  // namespace omni::cli
