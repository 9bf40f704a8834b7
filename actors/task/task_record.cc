#include "actors/task/task_record.h"

#include <type_traits>
#include <utility>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include "store/file/bytes.h"

namespace omni {
namespace {

constexpr uint8_t kVersion = 1;
constexpr size_t kDeepest = 2;  // a task and its children

template <typename T>
constexpr bool kIsPlain = std::is_arithmetic_v<T> || std::is_enum_v<T>;

class Writer {
 public:
  template <typename T>
  void Field(const T& value) {
    if constexpr (kIsPlain<T>) {
      PutField(&bytes_, value);
    } else if constexpr (std::is_same_v<T, TaskTime>) {
      PutField<int64_t>(&bytes_, value.time_since_epoch().count());
    } else if constexpr (std::is_same_v<T, TaskDuration>) {
      PutField<int64_t>(&bytes_, value.count());
    } else if constexpr (std::is_same_v<T, std::string>) {
      PutField(&bytes_, static_cast<uint32_t>(value.size()));
      bytes_ += value;
    } else {
      Fields(*this, const_cast<T&>(value));  // written, never changed: one list of fields for both ways
    }
  }
  template <typename T>
  void Field(const std::vector<T>& values) {
    PutField(&bytes_, static_cast<uint32_t>(values.size()));
    for (const T& value : values) Field(value);
  }
  void Field(const std::map<std::string, std::string>& values) {
    PutField(&bytes_, static_cast<uint32_t>(values.size()));
    for (const auto& [key, value] : values) {
      Field(key);
      Field(value);
    }
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : fields_(bytes) {}

  template <typename T>
  void Field(T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      uint8_t byte = 0;
      ok_ = ok_ && fields_.Get(&byte) && byte <= 1;
      value = byte == 1;
    } else if constexpr (kIsPlain<T>) {
      ok_ = ok_ && fields_.Get(&value);
    } else if constexpr (std::is_same_v<T, TaskTime>) {
      int64_t count = 0;
      ok_ = ok_ && fields_.Get(&count);
      value = TaskTime(TaskDuration(count));
    } else if constexpr (std::is_same_v<T, TaskDuration>) {
      int64_t count = 0;
      ok_ = ok_ && fields_.Get(&count);
      value = TaskDuration(count);
    } else if constexpr (std::is_same_v<T, std::string>) {
      uint32_t size = 0;
      std::string_view bytes;
      ok_ = ok_ && fields_.Get(&size) && fields_.GetBytes(size, &bytes);
      value.assign(bytes);
    } else if (++depth_ <= kDeepest + 2) {
      Fields(*this, value);
      --depth_;
    } else {
      ok_ = false;
    }
  }
  template <typename T>
  void Field(std::vector<T>& values) {
    uint32_t size = 0;
    ok_ = ok_ && fields_.Get(&size);
    values.clear();
    // A value has at least four bytes.
    ok_ = ok_ && size <= fields_.rest().size() / 4;
    for (uint32_t i = 0; ok_ && i < size; ++i) Field(values.emplace_back());
  }
  void Field(std::map<std::string, std::string>& values) {
    uint32_t size = 0;
    ok_ = ok_ && fields_.Get(&size);
    values.clear();
    for (uint32_t i = 0; ok_ && i < size; ++i) {
      std::string key;
      Field(key);
      ok_ = ok_ && (values.empty() || key > values.rbegin()->first);  // as it is written
      Field(values[std::move(key)]);
    }
  }
  bool done() const { return ok_ && fields_.rest().empty(); }

 private:
  FieldReader fields_;
  size_t depth_ = 0;
  bool ok_ = true;
};

template <typename A, typename... T>
void All(A& archive, T&... fields) {
  (archive.Field(fields), ...);
}

template <typename A>
void Fields(A& a, TaskRetry& v) {
  All(a, v.attempts, v.losses, v.first, v.most, v.factor, v.jitter, v.never);
}
template <typename A>
void Fields(A& a, TaskTimeouts& v) {
  All(a, v.queue, v.run, v.total);
}
template <typename A>
void Fields(A& a, TaskSpec& v) {
  All(a, v.executor, v.target, v.input, v.context, v.labels, v.priority, v.not_before, v.retain, v.retry,
      v.timeouts, v.outlives_parent, v.gather, v.children);
}
template <typename A>
void Fields(A& a, TaskState& v) {
  All(a, v.id, v.caller, v.executor, v.target, v.context, v.parent, v.index, v.status, v.attempt, v.failures,
      v.losses, v.retries, v.cancel_requested, v.created, v.updated, v.ended, v.ready, v.node, v.error,
      v.message, v.last_event, v.children, v.children_over, v.children_succeeded);
}
template <typename A>
void Fields(A& a, TaskLease& v) {
  All(a, v.token, v.worker, v.began, v.ends, v.reports);
}
template <typename A>
void Fields(A& a, TaskRecord& v) {
  All(a, v.state, v.priority, v.retry, v.timeouts, v.retain, v.gather, v.outlives_parent, v.key, v.lease,
      v.queued, v.drive, v.points, v.log_bytes, v.children_made);
}
template <typename A>
void Fields(A& a, TaskWork& v) {
  All(a, v.input, v.labels, v.children);
}
template <typename A>
void Fields(A& a, TaskEvent& v) {
  All(a, v.number, v.time, v.kind, v.attempt, v.status, v.ready, v.node, v.name, v.data);
}
template <typename A>
void Fields(A& a, TaskKey& v) {
  All(a, v.id, v.content);
}
template <typename A>
void Fields(A& a, TaskSchedule& v) {
  All(a, v.caller, v.name, v.cron, v.zone, v.paused, v.every_missed, v.next, v.last, v.last_task, v.spec);
}
template <typename A>
void Fields(A& a, TaskPush& v) {
  All(a, v.task, v.name, v.url, v.token, v.scheme, v.credentials, v.told);
}
template <typename A>
void Fields(A& a, TaskListed& v) {
  All(a, v.status, v.executor, v.context, v.parent);
}

template <typename T>
std::string EncodeFields(const T& value) {
  Writer writer;
  writer.Field(kVersion);
  writer.Field(value);
  return writer.Take();
}

bool IsValid(const TaskStatus& s) { return s >= TaskStatus::kScheduled && s <= TaskStatus::kCancelled; }
bool IsValid(const TaskRecord& v) { return IsValid(v.state.status) && v.gather <= TaskGather::kAny; }
bool IsValid(const TaskEvent& v) {
  return IsValid(v.status) && v.kind >= TaskEventKind::kSubmitted && v.kind <= TaskEventKind::kOver;
}
bool IsValid(const TaskListed& v) { return IsValid(v.status); }
bool IsValid(const TaskWork&) { return true; }
bool IsValid(const TaskKey&) { return true; }
bool IsValid(const TaskSchedule&) { return true; }
bool IsValid(const TaskPush& v) { return v.told >= 0; }

template <typename T>
absl::StatusOr<T> DecodeFields(std::string_view bytes, const char* what) {
  Reader reader(bytes);
  uint8_t version = 0;
  reader.Field(version);
  if (version != kVersion)
    return absl::DataLossError(absl::StrCat(what, ": its version is ", static_cast<int>(version),
                                            ", this program reads ", static_cast<int>(kVersion)));
  T value;
  reader.Field(value);
  if (!reader.done() || !IsValid(value)) return absl::DataLossError(absl::StrCat(what, ": is damaged"));
  return value;
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

std::string Join(const char* prefix, std::string_view id) { return absl::StrCat(prefix, View(id)); }
std::string Hex(std::string_view text) { return absl::BytesToHexString(View(text)); }
std::string Number(int64_t number) { return absl::StrCat(absl::Hex(number, absl::kZeroPad16)); }
// Ascends while time goes back.
std::string LatestFirst(TaskTime time) {
  return Number(static_cast<int64_t>(~static_cast<uint64_t>(time.time_since_epoch().count())));
}

}  // namespace

std::string Encode(const TaskRecord& record) { return EncodeFields(record); }
std::string Encode(const TaskWork& work) { return EncodeFields(work); }
std::string Encode(const TaskEvent& event) { return EncodeFields(event); }
std::string Encode(const TaskKey& key) { return EncodeFields(key); }
std::string Encode(const TaskSchedule& schedule) { return EncodeFields(schedule); }
std::string Encode(const TaskSpec& spec) { return EncodeFields(spec); }
std::string Encode(const TaskPush& push) { return EncodeFields(push); }
std::string Encode(const TaskListed& listed) { return EncodeFields(listed); }

absl::StatusOr<TaskRecord> DecodeTaskRecord(std::string_view bytes) {
  return DecodeFields<TaskRecord>(bytes, "a task's record");
}
absl::StatusOr<TaskWork> DecodeTaskWork(std::string_view bytes) {
  return DecodeFields<TaskWork>(bytes, "what was handed in as a task");
}
absl::StatusOr<TaskEvent> DecodeTaskEvent(std::string_view bytes) {
  return DecodeFields<TaskEvent>(bytes, "a task's event");
}
absl::StatusOr<TaskKey> DecodeTaskKey(std::string_view bytes) {
  return DecodeFields<TaskKey>(bytes, "a task's idempotency key");
}
absl::StatusOr<TaskSchedule> DecodeTaskSchedule(std::string_view bytes) {
  return DecodeFields<TaskSchedule>(bytes, "a schedule");
}
absl::StatusOr<TaskPush> DecodeTaskPush(std::string_view bytes) {
  return DecodeFields<TaskPush>(bytes, "whom to tell of a task's events");
}
absl::StatusOr<TaskListed> DecodeTaskListed(std::string_view bytes) {
  return DecodeFields<TaskListed>(bytes, "a line of the list of tasks");
}

std::string LiveKey(std::string_view id) { return Join(kLivePrefix, id); }
std::string OverKey(std::string_view id) { return Join(kOverPrefix, id); }
std::string WorkKey(std::string_view id) { return Join(kWorkPrefix, id); }
std::string ResultKey(std::string_view id) { return Join(kResultPrefix, id); }
std::string PurgeKey(std::string_view id) { return Join(kPurgePrefix, id); }
std::string OrphansKey(std::string_view id) { return Join(kOrphansPrefix, id); }
std::string EventPrefix(std::string_view id) { return Join("event/", id) + "/"; }
std::string EventKey(std::string_view id, int64_t number) { return EventPrefix(id) + Number(number); }
std::string PointPrefix(std::string_view id) { return Join("point/", id) + "/"; }
std::string PointKey(std::string_view id, int64_t number) { return PointPrefix(id) + Number(number); }
std::string ChildPrefix(std::string_view id) { return Join("child/", id) + "/"; }
std::string ChildKey(std::string_view id, int64_t index) { return ChildPrefix(id) + Number(index); }
std::string KeyKey(std::string_view caller, std::string_view idempotency_key) {
  return absl::StrCat("key/", Hex(caller), "/", Hex(idempotency_key));
}
std::string OfPrefix(std::string_view caller) { return absl::StrCat("of/", Hex(caller), "/"); }
std::string OfKey(std::string_view caller, TaskTime updated, std::string_view id) {
  return absl::StrCat(OfPrefix(caller), LatestFirst(updated), "/", View(id));
}
std::string AllKey(TaskTime updated, std::string_view id) {
  return absl::StrCat(kAllPrefix, LatestFirst(updated), "/", View(id));
}
std::string DeadKey(TaskTime updated, std::string_view id) {
  return absl::StrCat(kDeadPrefix, LatestFirst(updated), "/", View(id));
}
std::string RetainKey(TaskTime until, std::string_view id) {
  return absl::StrCat(kRetainPrefix, Number(until.time_since_epoch().count()), "/", View(id));
}
std::string PushPrefix(std::string_view id) { return Join(kPushPrefix, id) + "/"; }
std::string PushKey(std::string_view id, std::string_view name) { return PushPrefix(id) + Hex(name); }
std::string PlanPrefix(std::string_view caller) { return absl::StrCat(kPlanPrefix, Hex(caller), "/"); }
std::string PlanKey(std::string_view caller, std::string_view name) { return PlanPrefix(caller) + Hex(name); }

std::string_view LastPart(std::string_view key) {
  const size_t slash = key.rfind('/');
  return slash == std::string_view::npos ? key : key.substr(slash + 1);
}

}  // namespace omni
