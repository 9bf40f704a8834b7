#include "cluster/tasks/acp_executor.h"

#include <utility>

#include "cluster/tasks/acp_session.h"
#include "omni/tasks/v1/tasks.pb.h"

namespace omni {

AcpExecutor::AcpExecutor(std::string name, AgentConfig agent, const ChildPlace& place)
    : name_(std::move(name)), agent_(std::move(agent)), place_(place) {}

std::vector<TaskExecutor::Offer> AcpExecutor::offers() const {
  return {{{"agent", name_}, agent_.program.description}};
}

TaskOutcome AcpExecutor::Run(TaskAttempt& attempt) {
  omni::tasks::v1::Work work;
  if (!work.ParseFromString(attempt.task().work.input) || !work.has_agent() || work.agent().agent() != name_)
    return TaskOutcome::Failed(kErrorInvalid, "the task's work is not this agent's");
  const auto own = WorkFolder::Make(place_);
  if (!own.ok()) return TaskOutcome::Failed(kErrorNotStarted, std::string(own.status().message()));
  const std::string folder = agent_.workspace.empty() ? (*own)->path() : agent_.workspace;
  ChildSpec spec;
  spec.argv = agent_.program.argv;
  spec.environment = ChildEnvironment(agent_.program, attempt.task(), (*own)->path());
  spec.folder = folder;
  spec.watched = (*own)->path();
  spec.limits = agent_.program.limits;
  AcpSession session(attempt, agent_, {work.agent().message(), work.agent().session(), folder});
  const absl::StatusOr<ChildRun> run = RunChild(attempt, place_, spec, session);
  if (run.ok() && !run->outcome.has_value() && run->end.exited && run->end.code == 0)
    return TaskOutcome::Failed(kErrorExit, "the agent ended before it had answered" + session.last().Shown());
  return ChildOutcome(run, session.last(), "");
}

}  // namespace omni
