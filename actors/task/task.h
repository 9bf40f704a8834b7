// A piece of work that somebody handed in and went away from: what it is, how far it is, and what happened to
// it. docs/decisions/0018-durable-tasks.md says why it is so.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace omni {

using TaskTime = std::chrono::sys_time<std::chrono::milliseconds>;  // {}: none
using TaskDuration = std::chrono::milliseconds;                     // 0: none
using TaskId = std::string;                                         // 32 hex digits, drawn at random

enum class TaskStatus : uint8_t {
  kScheduled = 1,  // waits for its time: begun later, or tried again later
  kQueued,         // waits for an executor
  kRunning,        // an executor has it
  kWaiting,        // its children have it
  kSucceeded,
  kFailed,     // a dead letter, until it is retried or purged
  kCancelled,  // on demand, or with its parent
};
inline constexpr int kTaskStatuses = 7;
constexpr bool IsOver(TaskStatus status) { return status >= TaskStatus::kSucceeded; }

// Why an attempt failed. An executor may give others; these are given by the engine, or mean something to it.
inline constexpr char kErrorLost[] = "lost",  // the executor's lease ran out, or its node went
    kErrorTimeout[] = "timeout",              // the attempt took longer than it may
    kErrorQueueTimeout[] = "queue-timeout",   // nobody took it in time
    kErrorDeadline[] = "deadline",            // all attempts together took longer than they may
    kErrorInvalid[] = "invalid",              // trying again cannot help
    kErrorCancelled[] = "cancelled",          // the executor stopped because it was told to
    kErrorChildren[] = "children";            // of a fan-out: too few of them succeeded

// The wait before attempt n + 1 is first · factor^(n-1), at most `most`, and of that a share up to `jitter`
// less, at random.
struct TaskRetry {
  int32_t attempts = 3;  // that may fail
  int32_t losses = 10;   // that may be lost with their executor
  TaskDuration first = std::chrono::seconds(1), most = std::chrono::minutes(5);
  double factor = 2, jitter = 0.5;
  std::vector<std::string> never;  // errors after which there is no other attempt, beside kErrorInvalid
};

struct TaskTimeouts {
  TaskDuration queue{0};  // in kQueued, each time
  TaskDuration run{0};    // an attempt
  TaskDuration total{0};  // from its being handed in, or retried by hand, to its end
};

enum class TaskGather : uint8_t {
  kAll,      // succeeds when all children have; fails when all are over and one has not
  kAllFast,  // the same, and the first that fails ends the others
  kAny,      // succeeds with the first child that does, which ends the others
};

// What was handed in; never changes.
struct TaskSpec {
  std::string executor = {};  // "model", "command", … : [a-z0-9-]+; kFanout is the engine's own
  std::string target = {};    // which of its kind: a model, a program's alias; may be empty
  std::string input = {};     // the executor's business
  std::string context = {};   // what it belongs to (a conversation), by which tasks can be listed
  std::map<std::string, std::string> labels = {};
  int32_t priority = 0;    // -100 … 100, among its caller's; waiting makes up for it (task_queue.h)
  TaskTime not_before{};   // begun no sooner
  TaskDuration retain{0};  // kept that long after its end; 0: as long as the engine keeps tasks
  TaskRetry retry = {};
  TaskTimeouts timeouts = {};
  bool outlives_parent = false;  // of a child: not cancelled with its parent
  TaskGather gather = TaskGather::kAll;
  std::vector<TaskSpec> children = {};  // of a fan-out, which has nothing else to do; not fan-outs themselves
};
inline constexpr char kFanout[] = "fanout";

// How far it is.
struct TaskState {
  TaskId id;
  std::string caller;  // who handed it in
  std::string executor, target, context;
  TaskId parent;      // empty: none
  int32_t index = 0;  // among the parent's children
  TaskStatus status = TaskStatus::kQueued;
  int32_t attempt = 0;               // of the last that began; counts on over retries by hand
  int32_t failures = 0, losses = 0;  // of attempts since it was handed in or retried by hand
  int32_t retries = 0;               // by hand
  bool cancel_requested = false;
  TaskTime created{}, updated{}, ended{};  // updated: when the status became this one
  TaskTime ready{};                        // kScheduled: until then
  std::string node;                        // that has it, or had it last
  std::string error, message;              // of the last attempt that failed; kFailed: why
  int64_t last_event = 0;
  int32_t children = 0, children_over = 0, children_succeeded = 0;
};

enum class TaskEventKind : uint8_t {
  kSubmitted = 1,
  kStarted,          // an attempt, on `node`
  kOutput,           // `data`: bytes, of stream `name`
  kProgress,         // `data`: a text for people
  kArtifact,         // `name`: its name; `data`: where it is (the executor's business)
  kAttemptFailed,    // `name`: the error; `data`: the message; tried again at `ready`
  kReturned,         // the executor gave it back, undone
  kCancelRequested,  // by whom: `name`
  kChildOver,        // `name`: its id; `status`: how
  kRetried,          // by hand; by whom: `name`
  kOver,             // `status`: how; if it failed, `name` and `data` as of kAttemptFailed
};

// The events of a task have the numbers 1, 2, 3 …; none is ever left out, changed or taken back, and none is
// seen before it lasts. kOver comes once, and once more for every kRetried.
struct TaskEvent {
  int64_t number = 0;
  TaskTime time{};
  TaskEventKind kind = TaskEventKind::kSubmitted;
  int32_t attempt = 0;
  TaskStatus status = TaskStatus::kQueued;  // after it
  TaskTime ready{};
  std::string node = {}, name = {}, data = {};
};

struct TaskLimits {
  size_t input_bytes = 512 << 10;        // of a task with its children
  size_t labels = 32, word_bytes = 256;  // a label, key, name, error
  size_t message_bytes = 4096;
  size_t event_bytes = 64 << 10, report_events = 48, report_bytes = 256 << 10;
  size_t result_bytes = 256 << 10;
  size_t children = 1000;
  int64_t live = 2'000'000;  // not over, of all callers
  int64_t live_per_caller = 1'000'000;
  int64_t log_bytes = 64 << 20;  // of the events and checkpoints of one task
  size_t schedules = 10'000;     // paused ones too
  size_t pushes_of_task = 16, push_bytes = 4096;
  int64_t pushes = 100'000;  // of all tasks that are kept
};

}  // namespace omni
