// Tasks as records of bytes: keys, and values with a version.
//
//     live/<id>                          how far it is, of a task that is not over
//     over/<id>                          the same, of one that is
//     work/<id>                          what was handed in
//     event/<id>/<number>                what happened
//     point/<id>/<number>                pieces of its checkpoint
//     result/<id>                        what it gave
//     child/<id>/<index>                 the ids of its children
//     key/<caller>/<idempotency key>     which task was handed in under it, and what that was
//     of/<caller>/<latest first>/<id>    the tasks of a caller, by when their status changed
//     all/<latest first>/<id>            the tasks of all callers
//     dead/<latest first>/<id>           the failed ones
//     retain/<time>/<id>                 until when those that are over are kept
//     purge/<id>                         a task that was purged, whose events still have to go
//     orphans/<id>                       a fan-out that is over, whose children still have to be cancelled
//     plan/<caller>/<name>               a schedule
//     push/<id>/<name>                   who is to be told of a task's events, and up to which it was
//
// Numbers are 16 hex digits, callers and names hex, so that no part has a slash and order is that of time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "actors/task/task.h"

namespace omni {

// What may be done to a task by the one who has it.
struct TaskLease {
  std::string token;   // 32 hex digits, drawn at random; empty: nobody has the task
  std::string worker;  // who has it: a process's stay, not a node
  TaskTime began{}, ends{};
  int64_t reports = 0;  // the number of the last
};

// All of a task but what was handed in for its executor, and what happened.
struct TaskRecord {
  TaskState state;
  int32_t priority = 0;
  TaskRetry retry;
  TaskTimeouts timeouts;
  TaskDuration retain{0};
  TaskGather gather = TaskGather::kAll;
  bool outlives_parent = false;
  std::string key;  // idempotency key; empty: none
  TaskLease lease;
  TaskTime queued{};      // when it last began to wait for an executor
  TaskTime drive{};       // when it was handed in, or retried by hand
  int64_t points = 0;     // pieces of its checkpoint
  int64_t log_bytes = 0;  // of its events and pieces
  int32_t children_made = 0;
};

struct TaskWork {
  std::string input;
  std::map<std::string, std::string> labels;
  std::vector<TaskSpec> children;
};

struct TaskKey {
  TaskId id;
  uint64_t content = 0;  // hash of what was handed in
};

// Work that is handed in again and again.
struct TaskSchedule {
  std::string caller, name;
  std::string cron, zone;  // schedule.h
  bool paused = false;
  // Of the times that passed while nothing ran: all of them are caught up with, or only the last.
  bool every_missed = false;
  TaskTime next{};  // when it is handed in next
  TaskTime last{};  // was handed in
  TaskId last_task;
  TaskSpec spec;
};

// Somebody elsewhere who is told of a task's events, at an address of HTTP.
struct TaskPush {
  TaskId task;
  std::string name;                 // among the task's
  std::string url, token;           // token: said to him, so that he knows whom it is from; may be empty
  std::string scheme, credentials;  // of the header Authorization; may be empty
  int64_t told = 0;                 // the number of the last event that he needs no more
};

std::string Encode(const TaskRecord& record);
std::string Encode(const TaskWork& work);
std::string Encode(const TaskEvent& event);
std::string Encode(const TaskKey& key);
std::string Encode(const TaskSchedule& schedule);
std::string Encode(const TaskSpec& spec);
std::string Encode(const TaskPush& push);
// DataLoss: it is none, or of a later program.
absl::StatusOr<TaskRecord> DecodeTaskRecord(std::string_view bytes);
absl::StatusOr<TaskWork> DecodeTaskWork(std::string_view bytes);
absl::StatusOr<TaskEvent> DecodeTaskEvent(std::string_view bytes);
absl::StatusOr<TaskKey> DecodeTaskKey(std::string_view bytes);
absl::StatusOr<TaskSchedule> DecodeTaskSchedule(std::string_view bytes);
absl::StatusOr<TaskPush> DecodeTaskPush(std::string_view bytes);

// What a list is narrowed by without reading the tasks themselves.
struct TaskListed {
  TaskStatus status = TaskStatus::kQueued;
  std::string executor, context, parent;
};
std::string Encode(const TaskListed& listed);
absl::StatusOr<TaskListed> DecodeTaskListed(std::string_view bytes);

inline constexpr char kLivePrefix[] = "live/", kOverPrefix[] = "over/", kWorkPrefix[] = "work/",
                      kResultPrefix[] = "result/", kAllPrefix[] = "all/", kDeadPrefix[] = "dead/",
                      kRetainPrefix[] = "retain/", kPurgePrefix[] = "purge/", kOrphansPrefix[] = "orphans/",
                      kPlanPrefix[] = "plan/", kPushPrefix[] = "push/";

std::string LiveKey(std::string_view id);
std::string OverKey(std::string_view id);
std::string WorkKey(std::string_view id);
std::string ResultKey(std::string_view id);
std::string PurgeKey(std::string_view id);
std::string OrphansKey(std::string_view id);
std::string EventPrefix(std::string_view id);
std::string EventKey(std::string_view id, int64_t number);
std::string PointPrefix(std::string_view id);
std::string PointKey(std::string_view id, int64_t number);
std::string ChildPrefix(std::string_view id);
std::string ChildKey(std::string_view id, int64_t index);
std::string KeyKey(std::string_view caller, std::string_view idempotency_key);
std::string OfPrefix(std::string_view caller);
std::string OfKey(std::string_view caller, TaskTime updated, std::string_view id);
std::string AllKey(TaskTime updated, std::string_view id);
std::string DeadKey(TaskTime updated, std::string_view id);
std::string RetainKey(TaskTime until, std::string_view id);
std::string PushPrefix(std::string_view id);
std::string PushKey(std::string_view id, std::string_view name);
std::string PlanPrefix(std::string_view caller);
std::string PlanKey(std::string_view caller, std::string_view name);
// The part after the last slash: the id, of the keys that end with one.
std::string_view LastPart(std::string_view key);

}  // namespace omni
