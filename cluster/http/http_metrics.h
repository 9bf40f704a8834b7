// What Prometheus is told.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "actors/swarm.h"

namespace omni {

// Thread-safe.
class HttpMetrics {
 public:
  HttpMetrics();
  ~HttpMetrics();

  // `route`: one of the server's own, not what a client wrote. Status 0: the client was gone before an
  // answer.
  void OnRequest(const std::string& route, int status, std::chrono::nanoseconds took);
  void OnPrompt(int64_t tokens);
  void OnFirstToken(std::chrono::nanoseconds since_request);
  void OnTokens(int64_t tokens);
  void OnClientGone();  // in the middle of an answer

  struct Now {
    SwarmStats swarm;
    int64_t connections = 0;
    bool ready = false;
  };
  // In Prometheus's text format, with what is so now.
  std::string Text(const Now& now);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
