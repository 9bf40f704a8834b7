// What Prometheus is told.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "cluster/status_source.h"

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
  void OnNextToken(std::chrono::nanoseconds since_the_last);
  void OnTokens(int64_t tokens);
  void OnClientGone();  // in the middle of an answer

  struct Now {
    ProcessStatus status;
    int64_t connections = 0, places = 0, watchers = 0, moments = 0;
    bool ready = false;
  };
  // In Prometheus's text format, with what is so now.
  std::string Text(const ProcessFacts& facts, const Now& now);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
