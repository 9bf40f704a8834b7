// The tasks of a process: where they are kept, who asks for them, and who does them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task_engine.h"
#include "cluster/coordination.h"
#include "cluster/http/http_routes.h"
#include "cluster/inference_backend.h"
#include "cluster/tasks/artifact_store.h"
#include "cluster/tasks/push_target.h"
#include "cluster/tasks/task_executor.h"
#include "cluster/tasks/task_service.h"
#include "cluster/tasks/tasks_now.h"

namespace grpc {
class ChannelCredentials;
}

namespace omni {

struct NodeTasksOptions {
  // Where tasks are kept: in the coordination store, while this node leads; or in a database in this folder,
  // which is made if it is not there. Neither: none are kept here, and whoever asks is told where.
  std::string dir;
  CoordinationStore* store = nullptr;
  TaskServiceOptions service;                 // its places are filled in
  std::function<std::string()> grpc_address;  // where the node is asked over gRPC
  PushConfig push;                            // who may be told of tasks by HTTP; its `allow` empty: nobody
  // Whom to ask for tasks to do where they are another's (RemoteLenderOptions); null: nobody.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  std::function<std::string(size_t)> keeper;
};

class NodeTasks {
 public:
  static constexpr int kLatest = 50;  // of TasksNow

  // What the options refer to outlives it.
  static absl::StatusOr<std::unique_ptr<NodeTasks>> Open(NodeTasksOptions options);
  // After the servers of its services and paths have been shut down. Waits for attempts to end or be given
  // back.
  ~NodeTasks();

  grpc::Service* service();              // SwarmTasks
  grpc::Service* lending();              // TaskLending, for other nodes
  grpc::Service* agent2agent_service();  // A2AService
  HttpExtension& agent2agent();          // the same over HTTP
  // The tools of the Model Context Protocol over HTTP: tasks, and texts of the model, of at most so many
  // tokens. Once; what is called is stopped and waited for by CloseTools, before the model goes.
  HttpExtension& OpenTools(InferenceBackend& model, int64_t most_tokens);
  void CloseTools();
  // This node leads, by this term, or does not any more. Where tasks are in the coordination store, those
  // that the one before had are here when they have been read; these calls do not wait for it.
  void OnElected(uint64_t term);
  void OnDeposed();
  // From now on the node is known by this name, and tasks are done by these executors, which outlive it. What
  // a former process on these records had is lent again. ResourceExhausted: no thread can be started.
  // `artifacts`: what their attempts leave, which outlives this; null: nothing.
  absl::Status Begin(const std::string& node, std::vector<TaskExecutor*> executors,
                     const ArtifactStore* artifacts = nullptr);
  // Nothing is accepted or begun from now on, and what is being done is given back, for the next process to
  // go on with. What is known can be asked for.
  void BeginDrain();
  // The same, and waits for what is being done to end or be given back. From then on only what is known is
  // there.
  void Drain();
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
