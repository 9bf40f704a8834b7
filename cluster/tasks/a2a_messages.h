// The Agent2Agent protocol's messages and what the task engine has. Nothing here waits.
//
//     a message       a task; its text is what the executor is given
//     messageId       the idempotency key, of its caller
//     contextId       the task's context; none: one that follows from the messageId
//     skill           the executor and its target, as "model" or "command/NAME", in metadata; none: "model"
//     output          artifacts, one for each stream, that grow
//     events          status updates
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <third_party/a2a.pb.h>

#include "actors/task/task.h"
#include "actors/task/task_ledger.h"
#include "actors/task/task_reader.h"

namespace omni {

namespace a2a = ::lf::a2a::v1;

// The extension that says in metadata, under this name, which event of which attempt on which node it was.
inline constexpr char kA2aExtension[] = "urn:omni:a2a:events:1";

// By the header or metadata A2A-Version: one that names no version is of the binding's own, 1.0 or 0.3.
absl::Status CheckA2aVersion(const std::string& version, bool legacy);
bool WantsA2aExtension(const std::string& extensions);  // by A2A-Extensions

// What a message asks for; `submission.caller` is the caller's matter. Errors as A2aStatus has them.
absl::StatusOr<TaskSubmission> ReadA2aMessage(const a2a::SendMessageRequest& request);

a2a::TaskState A2aStateOf(TaskStatus status, int32_t attempt, const std::string& error);
// The statuses that a task in that state may have; some with them are in another state. InvalidArgument: no
// task ever is.
absl::StatusOr<std::vector<TaskStatus>> StatusesOf(a2a::TaskState state);
// Which tasks a list is of. InvalidArgument: of a state that no task ever has, or from no time on.
absl::StatusOr<TaskFilter> ReadA2aFilter(const a2a::ListTasksRequest& request);

// Without artifacts and history.
a2a::Task TellA2aTask(const TaskState& state, bool extended);
// The message that the task was; of one that was handed in otherwise, what it would have been.
a2a::Message TellA2aMessage(const TaskState& state, const TaskWork& work);

// A task's events as updates, from its first on.
class A2aUpdates {
 public:
  // `extended`: with the extension's metadata.
  A2aUpdates(const TaskState& state, bool extended);

  // Adds those that an event makes. `result` is asked if the task has succeeded and all that it gave is its
  // result.
  void Apply(const TaskEvent& event, const std::function<std::string()>& result,
             std::vector<a2a::StreamResponse>* updates);

 private:
  a2a::TaskArtifactUpdateEvent* AddArtifact(const TaskEvent& event, const std::string& id,
                                            std::vector<a2a::StreamResponse>* updates);
  void AddStatus(const TaskEvent& event, const std::string& text, std::vector<a2a::StreamResponse>* updates);
  void EndTexts(const TaskEvent& event, std::vector<a2a::StreamResponse>* updates);

  const TaskId task_;
  const std::string executor_, context_;
  const bool extended_;
  std::map<std::string, std::string>
      begun_;  // artifacts: the beginning of a character whose end has not come
};

// Adds to a task's artifacts what an update says. No more than `most` bytes in all: an artifact of which
// something is left out says so in its metadata.
void MergeA2a(const a2a::StreamResponse& update, size_t most, a2a::Task* task);

}  // namespace omni
