// omni.tasks.v1.SwarmTasks over the task engine of this process. No thread waits for a client, and what a
// stream has not sent yet it has not read yet.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task_engine.h"
#include "cluster/access.h"
#include "cluster/tasks/artifact_store.h"
#include "cluster/tasks/task_places.h"

namespace grpc {
class Service;
}

namespace omni {

struct TaskServiceOptions {
  Access* access = nullptr;                // says who calls; null: nobody in particular, who may see all
  std::function<absl::Status()> serving;   // whether tasks are kept here at present; Unavailable says where
  std::function<std::string()> elsewhere;  // the address of whoever keeps them; empty: not known
  std::function<std::vector<TaskPlaces>()> places;
  // Of what attempts have left on their nodes, at most 1 MiB; calls back once, from any thread. Null: there
  // is nothing.
  std::function<void(const std::string& node, const std::string& where, int64_t offset,
                     std::function<void(absl::StatusOr<ArtifactPiece>)> done)>
      artifact;
  int threads = 2;                      // that read from the disk
  int64_t most_watches = 10'000;        // at one time
  int64_t submitted_bytes = 256 << 20;  // of what waits to be accepted
};

class TaskService {
 public:
  // `engine` null: tasks are never kept here. It and access outlive the service. ResourceExhausted: the
  // system refuses the threads.
  static absl::StatusOr<std::unique_ptr<TaskService>> Make(TaskServiceOptions options, TaskEngine* engine);
  ~TaskService();  // after its server has been shut down

  grpc::Service* service();
  // Ends all streams with the status: whoever watched asks again with the number that it has.
  void EndAll(const absl::Status& status);
  int64_t watches() const;   // streams that are open
  int64_t accepted() const;  // tasks that were handed in here, since the start

  struct Impl;

 private:
  explicit TaskService(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
