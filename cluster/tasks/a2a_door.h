// The Agent2Agent protocol 1.0 on an HTTP door: its bindings HTTP+JSON and JSON-RPC, and 0.3's message/send.
//
//     /.well-known/agent-card.json     what this agent is, for anybody
//     /a2a                             JSON-RPC
//     /a2a/message:send, /a2a/tasks …  HTTP+JSON
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task_engine.h"
#include "cluster/http/http_routes.h"
#include "cluster/tasks/task_service.h"

namespace omni {

struct A2aOptions {
  std::function<absl::Status()> serving;            // whether tasks are kept here at present
  std::function<std::vector<TaskPlaces>()> places;  // who does the work of tasks: the card's skills
  std::string name = "omni", description = "Text from a language model, and tasks that last.";
  std::string version;          // of the program
  bool keys = false;            // whoever asks shows one
  bool tls = false;             // of the door's
  int threads = 2;              // that read from the disk
  int64_t most_calls = 10'000;  // that wait, and streams that are open, at one time
};

class A2aHandlers;

class A2aDoor {
 public:
  // The engine outlives the door. ResourceExhausted: the system refuses the threads.
  static absl::StatusOr<std::unique_ptr<A2aDoor>> Make(A2aOptions options, TaskEngine& engine);
  ~A2aDoor();  // after the server of its routes

  void AddRoutes(HttpRoutes& routes);
  // Ends all streams, and calls that wait for a task, with the status, and those that come from now on. Any
  // thread.
  void EndAll(const absl::Status& status);
  int64_t waiting() const;  // calls and streams; any thread

 private:
  A2aDoor(bool tls, std::unique_ptr<A2aHandlers> handlers);
  const bool tls_;
  const std::unique_ptr<A2aHandlers> handlers_;
};

}  // namespace omni
