// What a process of a cluster says of itself, and while it coordinates, of its cluster.
#pragma once

#include <functional>
#include <memory>

#include "cluster/coordinator_role.h"
#include "cluster/status_source.h"

namespace omni {

class Model;

class ClusterNodeStatus final : public StatusSource {
 public:
  // `stats`, `serving` and `tasks` are called on any thread; they and the model outlive this.
  ClusterNodeStatus(ProcessFacts facts, const Model& model, std::function<SwarmStats()> stats,
                    std::function<absl::Status()> serving,
                    std::function<std::shared_ptr<const TasksNow>()> tasks);
  ~ClusterNodeStatus() override;

  // From now on what the role reports is told: anew whenever it changes, and at every tick, since figures
  // change without anything else. The role is stopped before this ends.
  void Follow(CoordinatorRole& role);
  void OnTick();     // of the role's, on the actors' thread
  void OnDeposed();  // the same

  ProcessFacts Facts() override;
  ProcessStatus Now() override;

 private:
  struct Latest;
  const ProcessFacts facts_;
  const Model& model_;
  const std::function<SwarmStats()> stats_;
  const std::function<absl::Status()> serving_;
  const std::function<std::shared_ptr<const TasksNow>()> tasks_;
  const std::shared_ptr<Latest> latest_;
};

}  // namespace omni
