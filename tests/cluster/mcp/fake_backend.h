// What the Model Context Protocol's tools ask for, in a test's hands.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cluster/mcp/mcp_backend.h"

namespace omni::testing {

class FakeBackend final : public McpBackend {
 public:
  absl::StatusOr<std::string> Task(const McpAsker& asker, const std::string& method,
                                   const std::string& request) override {
    const std::lock_guard lock(mutex_);
    asked.emplace_back(method, request);
    callers.push_back(asker.caller);
    const auto found = answers.find(method);
    if (found == answers.end()) return absl::NotFoundError("there is no task 'x'");
    return found->second;
  }
  // The events that the test has, then none until the stop.
  absl::Status Watch(const McpAsker&, const TaskId&, int64_t after, const OnEvent& on_event,
                     const std::stop_token& stop) override {
    for (const TaskEvent& event : events) {
      if (event.number <= after) continue;
      if (!on_event(event, R"({"kind": "OUTPUT", "status": "RUNNING", "node": ""})")) return absl::OkStatus();
    }
    if (ends) return absl::OkStatus();
    WaitFor(stop);
    return absl::OkStatus();
  }
  // As many tokens as the prompt has letters; of "wait" one, and no end before the stop.
  absl::StatusOr<Answer> Generate(const McpAsker&, const Asked& ask,
                                  const std::function<void(int64_t, const std::string&)>& on_token,
                                  const std::stop_token& stop) override {
    if (ask.prompt == "fail") return absl::UnavailableError("nobody is there");
    Answer answer;
    for (const char letter : ask.prompt) {
      on_token(++answer.tokens, std::string(1, letter));
      answer.text += letter;
      if (ask.prompt == "wait") break;
    }
    answer.reason = "length";
    if (ask.prompt == "wait") {
      WaitFor(stop);
      answer.reason = "cancelled";
    }
    return answer;
  }

  std::map<std::string, std::string> answers;  // by method; set before anybody calls
  std::vector<TaskEvent> events;
  bool ends = true;  // the task, with its events
  std::vector<std::pair<std::string, std::string>> asked;
  std::vector<std::string> callers;

 private:
  void WaitFor(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    stopped_.wait(lock, stop, [] { return false; });
  }
  std::mutex mutex_;
  std::condition_variable_any stopped_;
};

}  // namespace omni::testing
