// What the tools of the Model Context Protocol do: tasks, and texts of the model. Of another process or of
// this one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/task/task.h"
#include "cluster/access_keys.h"
#include "cluster/caller_limits.h"
#include "engine/text/sampler.h"

namespace omni {

struct McpAsker {
  std::string caller;  // whose tasks are meant; empty: nobody in particular
  Scopes scopes = Scopes::All();
  std::shared_ptr<CallerLimits::Permit> permit = nullptr;  // told of tokens; null: no limits
};

// Thread-safe. Calls wait.
class McpBackend {
 public:
  virtual ~McpBackend() = default;

  // A call of omni.tasks.v1.SwarmTasks with one answer, as RemoteTasks::Call has it: SubmitTask, GetTask,
  // ListTasks, CancelTask or ListExecutors.
  virtual absl::StatusOr<std::string> Task(const McpAsker& asker, const std::string& method,
                                           const std::string& request) = 0;
  // As RemoteTasks::Watch.
  using OnEvent = std::function<bool(const TaskEvent& event, const std::string& json)>;
  virtual absl::Status Watch(const McpAsker& asker, const TaskId& id, int64_t after, const OnEvent& on_event,
                             const std::stop_token& stop) = 0;

  struct Asked {
    std::string prompt;
    int64_t max_tokens = 128;
    SamplerSettings sampler;
    std::vector<std::string> stops;
    bool stop_at_end_of_text = true;
  };
  struct Answer {
    std::string text, reason;  // reason: StopReasonName's
    int64_t prompt_tokens = 0, tokens = 0;
  };
  // `on_token`: how many there are, and the text that came. After a stop the answer is what there is so far.
  virtual absl::StatusOr<Answer> Generate(
      const McpAsker& asker, const Asked& asked,
      const std::function<void(int64_t tokens, const std::string& text)>& on_token,
      const std::stop_token& stop) = 0;
};

}  // namespace omni
