// The streams of cluster/tasks/task_service.h. Nobody else includes this.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>

#include <grpcpp/grpcpp.h>

#include "actors/task/task_engine.h"
#include "cluster/disk_pool.h"
#include "omni/tasks/v1/tasks.pb.h"

namespace omni {

class TaskWatch;

// All that watch. A stream has one batch of events at most, and reads the next when it has sent that; when it
// has sent all that there are it waits to be told of more.
class TaskWatches : public TaskListener {
 public:
  using Reactor = grpc::ServerWriteReactor<tasks::v1::TaskEvent>;
  using ToGrpc = std::function<grpc::Status(const absl::Status&)>;  // how a stream ends

  TaskWatches(TaskEngine& engine, DiskPool& pool, int64_t most, ToGrpc to_grpc);
  ~TaskWatches() override;  // when no stream is open

  Reactor* Begin(TaskClient by, TaskId id, int64_t after);
  void EndAll(const absl::Status& status);
  int64_t open() const { return open_; }

  void OnChanged(const std::set<TaskId>& tasks) override;  // of any thread

 private:
  friend class TaskWatch;
  void Remove(TaskWatch* watch);

  TaskEngine& engine_;
  DiskPool& pool_;
  const int64_t most_;
  const ToGrpc to_grpc_;
  std::atomic<int64_t> open_{0};
  std::mutex mutex_;
  std::multimap<TaskId, std::shared_ptr<TaskWatch>> watches_;
};

}  // namespace omni
