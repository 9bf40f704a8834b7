// Tasks that an agent does which speaks the Agent Client Protocol, version 1: JSON-RPC 2.0, a message a line,
// on its standard input and output.
#pragma once

#include <string>
#include <vector>

#include "cluster/tasks/executor_config.h"
#include "cluster/tasks/task_executor.h"

namespace omni {

// Output is the streams "text" (what the agent says), "thoughts", "session" (the session's id, once) and
// "stderr"; everything else that it tells of its work is progress, as JSON. The result is the text, as far as
// a result can hold it. A session to go on with is loaded, if the agent can. Stopping is said in the
// protocol's words first. What the agent asks permission for is answered as the configuration says, and files
// are read and written for it only where that allows it, within its folder.
class AcpExecutor final : public TaskExecutor {
 public:
  // `place` outlives it.
  AcpExecutor(std::string name, AgentConfig agent, const ChildPlace& place);
  std::vector<Offer> offers() const override;
  int slots() const override { return agent_.program.slots; }
  TaskOutcome Run(TaskAttempt& attempt) override;

 private:
  const std::string name_;
  const AgentConfig agent_;
  const ChildPlace& place_;
};

}  // namespace omni
