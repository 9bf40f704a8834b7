// What is handed in for an agent, as executors have it. Protobuf stays behind agent_work.cc.
#pragma once

#include <string>

namespace omni {

// A serialized omni.tasks.v1.Work.
std::string AgentWork(const std::string& agent, const std::string& message);

}  // namespace omni
