// The HTTP door of a process: OpenAI's API, what operators ask, and the status page, in front of a swarm.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "cluster/http/http_guard.h"
#include "cluster/http/http_routes.h"
#include "cluster/http/http_server.h"
#include "cluster/http/openai_request.h"
#include "cluster/inference_backend.h"
#include "cluster/status_source.h"

namespace omni {

class HttpDoor {
 public:
  // What stands behind it; all of it outlives the door.
  struct Behind {
    InferenceBackend* backend = nullptr;
    StatusSource* status = nullptr;
    int64_t slots = 0;         // sessions that are stepped together
    bool log_requests = true;  // a line of the log for each, at the level info
    HttpGuardOptions guard;
    std::shared_ptr<CallerLimits> limits;  // of each caller, over all doors that share them; null: none
    std::vector<HttpExtension*> extensions = {};
  };
  // Errors: HttpServer::Listen's.
  static absl::StatusOr<std::unique_ptr<HttpDoor>> Open(HttpServerOptions options, ServedModel model,
                                                        Behind behind);
  ~HttpDoor();

  const std::string& address() const;
  const HttpRoutes& routes() const;
  // Takes no new work, and waits until what runs has been answered, but no longer than `most`: whether all
  // was. What asks meanwhile is told 503, and so is whoever asks whether it is ready.
  bool Drain(std::chrono::milliseconds most);

 private:
  struct Impl;
  explicit HttpDoor(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
