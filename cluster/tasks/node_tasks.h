// The tasks of a process: where they are kept, who asks for them, and who does them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task_engine.h"
#include "cluster/tasks/task_executor.h"
#include "cluster/tasks/task_service.h"
#include "cluster/tasks/tasks_now.h"

namespace omni {

class NodeTasks {
 public:
  static constexpr int kLatest = 50;  // of TasksNow

  // `dir`: of the tasks' database, which is made if it is not there; empty: none are kept here, and whoever
  // asks is told where. `service`'s places are filled in.
  static absl::StatusOr<std::unique_ptr<NodeTasks>> Open(const std::string& dir, TaskServiceOptions service);
  // After the server of its service has been shut down. Waits for attempts to end or be given back.
  ~NodeTasks();

  grpc::Service* service();
  // From now on the node is known by this name, and what is kept is done by these executors, which outlive
  // it. What a former process on these records had is lent again. ResourceExhausted: no thread can be
  // started.
  absl::Status Begin(const std::string& node, std::vector<TaskExecutor*> executors);
  // Nothing is accepted or begun from now on, and what is being done is given back, for the next process to
  // go on with. What is known can be asked for.
  void BeginDrain();
  void EndWatches(const absl::Status& status);  // those that are open
  // Null: none are kept here. Thread-safe; of a disk it waits at most for what has changed since the last
  // call.
  std::shared_ptr<const TasksNow> Now();

 private:
  struct Impl;
  explicit NodeTasks(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
