// An HTTP server that is told of tasks.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/cluster/http/raw_server.h"

namespace omni::testing {

// What came, and what is said to it.
class PushReceiver {
 public:
  using Script = std::function<std::vector<std::string>(int nth)>;
  explicit PushReceiver(Script script = nullptr)
      : script_(std::move(script)), server_([this](const std::string& request) {
          const std::lock_guard lock(mutex_);
          requests_.push_back(request);
          changed_.notify_all();
          return script_ != nullptr ? script_(static_cast<int>(requests_.size())) : Ok();
        }) {}
  static std::vector<std::string> Ok() {
    return {Head("204 No Content", "text/plain", "Content-Length: 0\r\n")};
  }
  static std::vector<std::string> Status(const std::string& status, const std::string& more = "") {
    return {Head(status, "text/plain", more + "Content-Length: 0\r\n")};
  }
  std::vector<std::string> Await(size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::minutes(1), [&] { return requests_.size() >= count; }));
    return requests_;
  }
  std::vector<std::string> Bodies(size_t count) {
    std::vector<std::string> bodies;
    for (const std::string& request : Await(count))
      bodies.push_back(request.substr(request.find("\r\n\r\n") + 4));
    return bodies;
  }
  size_t count() {
    const std::lock_guard lock(mutex_);
    return requests_.size();
  }
  std::string url(const std::string& path = "/hook") const { return server_.url() + path; }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> requests_;
  const Script script_;
  RawServer server_;
};

inline std::string HeaderOf(const std::string& request, const std::string& name) {
  const size_t at = request.find("\r\n" + name + ": ");
  if (at == std::string::npos) return "";
  const size_t begin = at + name.size() + 4;
  return request.substr(begin, request.find("\r\n", begin) - begin);
}

}  // namespace omni::testing
