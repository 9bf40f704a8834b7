#include "cli/verbs/task_call.h"

#include <chrono>

#include "engine/base/interrupt.h"
#include "engine/base/json.h"
#include "engine/base/random.h"

namespace omni::cli {

std::string NewTaskKey() { return "cli-" + RandomHex(32); }

absl::StatusOr<nlohmann::json> CallTasks(RemoteTasks& remote, const char* method,
                                         const nlohmann::json& request) {
  const absl::StatusOr<std::string> answer = remote.Call(method, JsonText(request));
  if (!answer.ok()) return answer.status();
  nlohmann::json json = nlohmann::json::parse(*answer, nullptr, false);
  if (!json.is_object()) return absl::InternalError("the answer is no JSON object");
  return json;
}

StopAtInterrupt::StopAtInterrupt()
    : thread_([this](const std::stop_token& over) {
        while (!over.stop_requested() && !stop_.stop_requested()) {
          if (InterruptGuard::Requested()) stop_.request_stop();
          std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
      }) {}

}  // namespace omni::cli
