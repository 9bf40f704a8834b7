// Tasks that an agent of ZeroClaw does, by its command line: zeroclaw agent -a ALIAS -m MESSAGE.
#pragma once

#include <string>
#include <vector>

#include "cluster/tasks/executor_config.h"
#include "cluster/tasks/task_executor.h"

namespace omni {

// Output is the streams "text", its standard output, and "stderr"; the result is the text, as far as a result
// can hold it.
class ZeroclawExecutor final : public TaskExecutor {
 public:
  // `place` outlives it.
  ZeroclawExecutor(std::string name, AgentConfig agent, const ChildPlace& place);
  std::vector<Offer> offers() const override;
  int slots() const override { return agent_.program.slots; }
  TaskOutcome Run(TaskAttempt& attempt) override;

 private:
  const std::string name_;
  const AgentConfig agent_;
  const ChildPlace& place_;
};

}  // namespace omni
