// The status page, and what it shows: /, /web/*, /v1/status and /v1/status/stream.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <absl/status/status.h>

#include "cluster/status_source.h"

namespace omni {

class HttpRoutes;

class StatusPages {
 public:
  // `ready`, `connections`: of the door; called on any thread, and do not wait. They and the source outlive
  // this; it outlives the server, and Stop is called before the server goes.
  StatusPages(StatusSource& source, std::string model_name, int64_t slots,
              std::function<absl::Status()> ready, std::function<int64_t()> connections);
  ~StatusPages();

  void AddRoutes(HttpRoutes& routes);
  void End();   // of all streams, soon; from now on there are none. Any thread
  void Stop();  // once it returns, what was given is called on the server's thread alone. Any thread

  const ProcessFacts& facts() const;
  int64_t watchers() const;  // now; any thread
  int64_t moments() const;   // made for watchers since the start; any thread

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
