// omni.tasks.v1.TaskLending: the tasks that are kept here, for other nodes to do.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task_engine.h"
#include "cluster/tasks/artifact_store.h"
#include "cluster/tasks/task_service.h"

namespace grpc {
class Service;
}

namespace omni {

// Calls back once, from any thread.
using ReadOwnArtifact = std::function<void(const std::string& where, int64_t offset,
                                           std::function<void(absl::StatusOr<ArtifactPiece>)> done)>;

class LendingService {
 public:
  // `serving`, `elsewhere`: as TaskServiceOptions'. `engine` null: tasks are never kept here; it outlives
  // this. `read`: of what attempts left on this node; null: nothing.
  LendingService(TaskEngine* engine, std::function<absl::Status()> serving,
                 std::function<std::string()> elsewhere, ReadOwnArtifact read = nullptr);
  ~LendingService();  // after its server has been shut down

  grpc::Service* service();
  // What the nodes offered that have asked for tasks of late.
  std::vector<TaskPlaces> places() const;
  // Where a node is asked that has asked for tasks of late; empty: it has not.
  std::string AddressOf(const std::string& node) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
