// What a program says about tasks to the nodes that keep them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task.h"
#include "cluster/cluster_client.h"

namespace omni {

// Thread-safe.
class RemoteTasks {
 public:
  static absl::StatusOr<std::unique_ptr<RemoteTasks>> Make(ClusterClientOptions options);
  ~RemoteTasks();

  // A call of omni.tasks.v1.SwarmTasks that has one answer, by its name. Request and answer are as protobuf
  // writes them in JSON, with the fields' own names and those that are empty too. InvalidArgument says what
  // of the request is wrong. Where nobody answers, and where a node says that another keeps the tasks, it is
  // asked again: whoever hands something in gives it an idempotency key.
  absl::StatusOr<std::string> Call(const std::string& method, const std::string& request);

  // Tells the events after number `after` until the task is over, over lost connections and restarted
  // servers, each once and in order; `json` is the event as by Call. Ends before that, with OK, when
  // `on_event` gives false or the stop is requested; with Unavailable, if nobody answered for as long as the
  // patience goes.
  using OnEvent = std::function<bool(const TaskEvent& event, const std::string& json)>;
  absl::Status Watch(const TaskId& id, int64_t after, const OnEvent& on_event, const std::stop_token& stop);

  // The bytes of an artifact of a task, piece by piece, to `write`. Errors: its own; those of GetArtifact;
  // DataLoss: what came is not what its hash says, and is worth nothing.
  absl::Status FetchArtifact(const TaskId& id, const std::string& name,
                             const std::function<absl::Status(std::string_view piece)>& write);

 private:
  struct Impl;
  explicit RemoteTasks(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
