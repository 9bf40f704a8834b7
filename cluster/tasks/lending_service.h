// omni.tasks.v1.TaskLending: the tasks that are kept here, for other nodes to do.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "actors/task/task_engine.h"
#include "cluster/tasks/task_service.h"

namespace grpc {
class Service;
}

namespace omni {

class LendingService {
 public:
  // `serving`, `elsewhere`: as TaskServiceOptions'. `engine` null: tasks are never kept here; it outlives
  // this.
  LendingService(TaskEngine* engine, std::function<absl::Status()> serving,
                 std::function<std::string()> elsewhere);
  ~LendingService();  // after its server has been shut down

  grpc::Service* service();
  // What the nodes offered that have asked for tasks of late.
  std::vector<TaskPlaces> places() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
