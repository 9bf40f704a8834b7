#include "cluster/tasks/agent_work.h"

#include "omni/tasks/v1/tasks.pb.h"

namespace omni {

std::string AgentWork(const std::string& agent, const std::string& message) {
  omni::tasks::v1::Work work;
  work.mutable_agent()->set_agent(agent);
  work.mutable_agent()->set_message(message);
  return work.SerializeAsString();
}

}  // namespace omni
