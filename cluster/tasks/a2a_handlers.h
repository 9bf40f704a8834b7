// The Agent2Agent protocol's operations over the task engine of this process, whatever binding they come by.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <third_party/a2a.pb.h>

#include "actors/task/task_engine.h"
#include "cluster/tasks/a2a_door.h"

namespace omni {

namespace a2a = ::lf::a2a::v1;

// Who asks, and how.
struct A2aAsker {
  std::string caller;
  bool extended = false;  // with the extension's metadata (a2a_messages.h)
};

// A task as it goes on. Thread-safe; whoever needs it no more lets it go.
class A2aStream {
 public:
  struct Batch {
    std::vector<a2a::StreamResponse> updates;
    bool over = false;  // there are no more
  };
  using Told = std::function<void(absl::StatusOr<Batch>)>;

  virtual ~A2aStream() = default;
  // The next updates, when there are some: the task first. Told once, from any thread, and not asked again
  // before that; an error is the last.
  virtual void Next(Told told) = 0;
};

// Thread-safe. No call waits: `done` is called once, from any thread, or never if what the call gave was let
// go. Errors are A2aStatus's, and those of the task engine. A caller's tasks are for nobody else: another's
// is TASK_NOT_FOUND.
class A2aHandlers {
 public:
  template <typename T>
  using Done = std::function<void(absl::StatusOr<T>)>;
  using Waiting = std::shared_ptr<void>;  // a call that waits for as long as this is held

  // The engine outlives the handlers; null: tasks are never kept here.
  static std::unique_ptr<A2aHandlers> Make(A2aOptions options, TaskEngine* engine);
  ~A2aHandlers();  // when whoever calls has gone

  Waiting Send(const A2aAsker& asker, a2a::SendMessageRequest request, Done<a2a::SendMessageResponse> done);
  void SendStreaming(const A2aAsker& asker, const a2a::SendMessageRequest& request,
                     Done<std::shared_ptr<A2aStream>> done);
  void Get(const A2aAsker& asker, a2a::GetTaskRequest request, Done<a2a::Task> done);
  void List(const A2aAsker& asker, a2a::ListTasksRequest request, Done<a2a::ListTasksResponse> done);
  void Cancel(const A2aAsker& asker, const a2a::CancelTaskRequest& request, Done<a2a::Task> done);
  void Subscribe(const A2aAsker& asker, const a2a::SubscribeToTaskRequest& request,
                 Done<std::shared_ptr<A2aStream>> done);
  // Who is told of a task; UNSUPPORTED where nobody is. From a message on he is told of all that becomes of
  // its task, by Create of what becomes of it from then on.
  void CreatePush(const A2aAsker& asker, const a2a::TaskPushNotificationConfig& config,
                  Done<a2a::TaskPushNotificationConfig> done);
  void GetPush(const A2aAsker& asker, a2a::GetTaskPushNotificationConfigRequest request,
               Done<a2a::TaskPushNotificationConfig> done);
  void ListPushes(const A2aAsker& asker, a2a::ListTaskPushNotificationConfigsRequest request,
                  Done<a2a::ListTaskPushNotificationConfigsResponse> done);
  void DeletePush(const A2aAsker& asker, const a2a::DeleteTaskPushNotificationConfigRequest& request,
                  Done<google::protobuf::Empty> done);
  // `base`: the address under which this process was asked, as "http://127.0.0.1:8080".
  a2a::AgentCard Card(const std::string& base) const;

  void EndWaiting(const absl::Status& status);  // streams, and calls that wait for a task
  void EndAll(const absl::Status& status);      // these, and all that come from now on
  int64_t waiting() const;                      // calls and streams

  struct Impl;

 private:
  explicit A2aHandlers(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

}  // namespace omni
