// The Agent2Agent protocol's agent card: what this agent is, how it is asked, and what it does.
#pragma once

#include <string>

#include <third_party/a2a.pb.h>

#include "cluster/tasks/a2a_door.h"

namespace omni {

namespace a2a = ::lf::a2a::v1;

// `base`: the address under which this process was asked, as "http://127.0.0.1:8080".
a2a::AgentCard MakeA2aCard(const A2aOptions& options, const std::string& base);

}  // namespace omni
