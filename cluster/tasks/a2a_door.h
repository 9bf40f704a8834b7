// The Agent2Agent protocol 1.0 in its three bindings, HTTP+JSON, JSON-RPC (with 0.3's message/send) and gRPC.
//
//     /.well-known/agent-card.json     what this agent is, for anybody
//     /a2a                             JSON-RPC
//     /a2a/message:send, /a2a/tasks …  HTTP+JSON
//     lf.a2a.v1.A2AService             gRPC
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
#include "cluster/http/http_routes.h"
#include "cluster/tasks/task_service.h"

namespace grpc {
class Service;
}

namespace omni {

class TaskPusher;

struct A2aOptions {
  std::function<absl::Status()> serving;            // whether tasks are kept here at present
  std::function<std::vector<TaskPlaces>()> places;  // who does the work of tasks: the card's skills
  std::string name = "omni", description = "Text from a language model, and tasks that last.";
  std::string version;                // of the program
  Access* access = nullptr;           // whoever asks shows a key of it; null: none is wanted
  std::function<std::string()> grpc;  // where the gRPC binding is, HOST:PORT; null: nowhere
  TaskPusher* pusher = nullptr;       // who is told by push notifications; null: nobody; outlives the door
  int threads = 2;                    // at most, that read from the disk, and are there while they do
  int64_t most_calls = 10'000;        // that wait, and streams that are open, at one time
};

// What a push notification is of an event that changes a task's status: a StreamResponse as JSON, with the
// extension's metadata. Of others empty.
std::string A2aPushBody(const TaskState& state, const TaskEvent& event);

class A2aHandlers;

class A2aDoor final : public HttpExtension {
 public:
  // The engine outlives the door; null: tasks are never kept here.
  static std::unique_ptr<A2aDoor> Make(A2aOptions options, TaskEngine* engine);
  ~A2aDoor() override;  // after the servers of its routes and of its service

  void AddRoutes(HttpRoutes& routes, const HttpDoorFacts& door) override;
  grpc::Service* service();
  // Streams, and calls that wait for a task; others may come. Any thread.
  void EndWaiting(const absl::Status& status);
  void EndAll(const absl::Status& status) override;
  int64_t waiting() const;  // calls and streams; any thread

 private:
  A2aDoor(std::unique_ptr<A2aHandlers> handlers, std::unique_ptr<grpc::Service> service);
  const std::unique_ptr<A2aHandlers> handlers_;
  const std::unique_ptr<grpc::Service> service_;
};

}  // namespace omni
