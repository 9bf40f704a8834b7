#include "cluster/cluster_node_status.h"

#include <mutex>
#include <utility>

#include "cluster/node_status.h"

namespace omni {

// Shared with reports that are on their way.
struct ClusterNodeStatus::Latest : public std::enable_shared_from_this<ClusterNodeStatus::Latest> {
  // Another is asked for when the one that is on its way has come.
  void Ask() {
    CoordinatorRole* to = nullptr;
    {
      std::lock_guard lock(mutex);
      again = asked;
      if (asked || role == nullptr) return;
      asked = true;
      to = role;
    }
    to->Report([self = shared_from_this()](absl::StatusOr<ClusterReport> made) {
      bool more = false;
      {
        std::lock_guard lock(self->mutex);
        self->report = made.ok() ? std::make_shared<const ClusterReport>(*std::move(made)) : nullptr;
        self->asked = false;
        more = std::exchange(self->again, false);
      }
      if (more) self->Ask();
    });
  }

  std::mutex mutex;
  CoordinatorRole* role = nullptr;
  bool asked = false, again = false;
  std::shared_ptr<const ClusterReport> report;
  std::shared_ptr<void> watch;
};

ClusterNodeStatus::ClusterNodeStatus(ProcessFacts facts, const Model& model,
                                     std::function<SwarmStats()> stats, std::function<absl::Status()> serving,
                                     std::function<std::shared_ptr<const TasksNow>()> tasks)
    : facts_(std::move(facts)),
      model_(model),
      stats_(std::move(stats)),
      serving_(std::move(serving)),
      tasks_(std::move(tasks)),
      latest_(std::make_shared<Latest>()) {}

ClusterNodeStatus::~ClusterNodeStatus() {
  std::lock_guard lock(latest_->mutex);
  latest_->role = nullptr;
  latest_->watch = nullptr;
}

void ClusterNodeStatus::Follow(CoordinatorRole& role) {
  std::shared_ptr<void> watch = role.Watch([weak = std::weak_ptr(latest_)] {
    if (const auto latest = weak.lock()) latest->Ask();
  });
  std::lock_guard lock(latest_->mutex);
  latest_->role = &role;
  latest_->watch = std::move(watch);
}

void ClusterNodeStatus::OnTick() { latest_->Ask(); }

void ClusterNodeStatus::OnDeposed() {
  std::lock_guard lock(latest_->mutex);
  latest_->report = nullptr;
}

ProcessFacts ClusterNodeStatus::Facts() { return facts_; }

ProcessStatus ClusterNodeStatus::Now() {
  ProcessStatus status;
  status.swarm = stats_();
  status.serving = serving_();
  status.tasks = tasks_();
  AddCache(model_, status);
  std::lock_guard lock(latest_->mutex);
  status.cluster = latest_->report;
  return status;
}

}  // namespace omni
