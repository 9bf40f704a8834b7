#include "cluster/tasks/task_messages.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include <absl/strings/str_cat.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <nlohmann/json.hpp>

#include "engine/base/json.h"
#include "engine/base/quoted.h"
#include "engine/text/sampler.h"
#include "engine/text/stop_limits.h"

namespace omni {
namespace {

namespace pb = ::omni::tasks::v1;
namespace protobuf = ::google::protobuf;

constexpr int64_t kLastSecond = 253'402'300'799;  // of the year 9999, the last of a Timestamp
constexpr int64_t kLongestSeconds = int64_t{10} * 365 * 24 * 3600;
constexpr uint64_t kMostTokens = uint64_t{1} << 40;
constexpr TaskDuration kLongestLearning = std::chrono::hours(1);
const char* const kJobs[] = {"train", "eval", "pack"};

static_assert(pb::SCHEDULED == static_cast<int>(TaskStatus::kScheduled) &&
              pb::WAITING == static_cast<int>(TaskStatus::kWaiting) &&
              pb::CANCELLED == static_cast<int>(TaskStatus::kCancelled) && pb::CANCELLED == kTaskStatuses);
static_assert(pb::TaskEvent::SUBMITTED == static_cast<int>(TaskEventKind::kSubmitted) &&
              pb::TaskEvent::ARTIFACT == static_cast<int>(TaskEventKind::kArtifact) &&
              pb::TaskEvent::CHILD_OVER == static_cast<int>(TaskEventKind::kChildOver) &&
              pb::TaskEvent::OVER == static_cast<int>(TaskEventKind::kOver));
static_assert(pb::FanOut::ALL == static_cast<int>(TaskGather::kAll) &&
              pb::FanOut::ALL_FAST == static_cast<int>(TaskGather::kAllFast) &&
              pb::FanOut::ANY == static_cast<int>(TaskGather::kAny));

absl::Status Wrong(const std::string& field, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(field, " ", what));
}

absl::Status ReadTime(const std::string& field, const protobuf::Timestamp& from, TaskTime* time) {
  if (from.seconds() < 0 || from.seconds() > kLastSecond || from.nanos() < 0 || from.nanos() >= 1'000'000'000)
    return Wrong(field, "is no time of the years 1970 to 9999");
  *time =
      TaskTime(std::chrono::seconds(from.seconds()) + std::chrono::milliseconds(from.nanos() / 1'000'000));
  return absl::OkStatus();
}

// Up to whole milliseconds: what is not none stays so.
absl::Status ReadDuration(const std::string& field, const protobuf::Duration& from, TaskDuration* duration) {
  if (from.seconds() < 0 || from.seconds() > kLongestSeconds || from.nanos() < 0 ||
      from.nanos() >= 1'000'000'000 || (from.seconds() == kLongestSeconds && from.nanos() > 0))
    return Wrong(field, "is not between 0 and ten years");
  *duration = std::chrono::seconds(from.seconds()) +
              std::chrono::milliseconds((int64_t{from.nanos()} + 999'999) / 1'000'000);
  return absl::OkStatus();
}

absl::Status CheckText(const std::string& field, const std::string& text) {
  if (text.find('\0') != std::string::npos)
    return Wrong(field, "has a zero byte, which no program can be given");
  return absl::OkStatus();
}

absl::Status CheckModel(const std::string& field, const pb::ModelWork& work) {
  if (work.max_tokens() > kMostTokens)
    return Wrong(field + ".max_tokens", absl::StrCat("is ", work.max_tokens(), "; use up to ", kMostTokens));
  SamplerSettings sampler;
  if (work.has_temperature()) sampler.temperature = work.temperature();
  if (work.has_top_k()) sampler.top_k = work.top_k();
  if (work.has_top_p()) sampler.top_p = work.top_p();
  if (work.has_min_p()) sampler.min_p = work.min_p();
  if (absl::Status s = Validate(sampler); !s.ok())
    return Wrong(field, absl::StrCat("is refused: ", s.message()));
  const auto wrong_stop = [](const std::string& stop) {
    return stop.empty() || stop.size() > kMostStopStringBytes;
  };
  if (work.stops_size() > static_cast<int>(kMostStopStrings) ||
      std::any_of(work.stops().begin(), work.stops().end(), wrong_stop)) {
    return Wrong(field + ".stops", absl::StrCat("may be ", kMostStopStrings, " at most, of 1 to ",
                                                kMostStopStringBytes, " bytes each"));
  }
  return absl::OkStatus();
}

absl::Status CheckArguments(const std::string& field,
                            const protobuf::RepeatedPtrField<std::string>& arguments) {
  for (int i = 0; i < arguments.size(); ++i)
    if (absl::Status s = CheckText(absl::StrCat(field, "[", i, "]"), arguments[i]); !s.ok()) return s;
  return absl::OkStatus();
}

absl::Status CheckCommand(const std::string& field, const pb::CommandWork& work) {
  if (work.program().empty()) return Wrong(field + ".program", "is empty; name one that the nodes offer");
  if (absl::Status s = CheckText(field + ".program", work.program()); !s.ok()) return s;
  if (absl::Status s = CheckArguments(field + ".arguments", work.arguments()); !s.ok()) return s;
  for (const auto& [name, value] : work.environment()) {
    const std::string one = absl::StrCat(field, ".environment[", Quoted(name), "]");
    if (name.empty() || name.find('=') != std::string::npos) return Wrong(one, "is no variable's name");
    if (absl::Status s = CheckText(one, name); !s.ok()) return s;
    if (absl::Status s = CheckText(one, value); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status CheckAgent(const std::string& field, const pb::AgentWork& work) {
  if (work.agent().empty()) return Wrong(field + ".agent", "is empty; name one that the nodes offer");
  if (work.message().empty()) return Wrong(field + ".message", "is empty; say what is to be done");
  for (const auto& [name, text] : {std::pair(".agent", &work.agent()), std::pair(".message", &work.message()),
                                   std::pair(".session", &work.session())}) {
    if (absl::Status s = CheckText(field + name, *text); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status CheckJob(const std::string& field, const pb::JobWork& work) {
  if (std::find(std::begin(kJobs), std::end(kJobs), work.verb()) == std::end(kJobs))
    return Wrong(field + ".verb", absl::StrCat("is ", Quoted(work.verb()), "; use train, eval or pack"));
  return CheckArguments(field + ".arguments", work.arguments());
}

absl::Status CheckAdapt(const std::string& field, const pb::AdaptWork& work) {
  if (work.name().empty()) return Wrong(field + ".name", "is empty; say what the adapter is to be called");
  if (work.text().empty()) return Wrong(field + ".text", "is empty; there is nothing to learn from");
  TaskDuration budget{0};
  if (absl::Status s = ReadDuration(field + ".budget", work.budget(), &budget); !s.ok()) return s;
  if (work.has_budget() && (budget.count() == 0 || budget > kLongestLearning))
    return Wrong(field + ".budget", "is not between 1 ms and an hour");
  if (work.has_drift() && !(work.drift() >= 0 && work.drift() <= 1))
    return Wrong(field + ".drift", "is not between 0 and 1");
  return absl::OkStatus();
}

std::string SameBytes(const pb::Work& work) {
  std::string bytes;
  {
    protobuf::io::StringOutputStream out(&bytes);
    protobuf::io::CodedOutputStream coded(&out);
    coded.SetSerializationDeterministic(true);
    work.SerializeToCodedStream(&coded);
  }
  return bytes;
}

absl::Status ReadWork(const std::string& field, const pb::Work& work, TaskSpec* spec) {
  absl::Status status;
  switch (work.kind_case()) {
    case pb::Work::kModel:
      spec->executor = "model";
      spec->target = work.model().model();
      status = CheckModel(field + ".model", work.model());
      break;
    case pb::Work::kCommand:
      spec->executor = "command";
      spec->target = work.command().program();
      status = CheckCommand(field + ".command", work.command());
      break;
    case pb::Work::kAgent:
      spec->executor = "agent";
      spec->target = work.agent().agent();
      status = CheckAgent(field + ".agent", work.agent());
      break;
    case pb::Work::kJob:
      spec->executor = "job";
      spec->target = work.job().verb();
      status = CheckJob(field + ".job", work.job());
      break;
    case pb::Work::kAdapt:
      spec->executor = "adapt";
      status = CheckAdapt(field + ".adapt", work.adapt());
      break;
    case pb::Work::kFanOut: {
      const pb::FanOut& fan_out = work.fan_out();
      spec->executor = kFanout;
      if (!pb::FanOut::Gather_IsValid(fan_out.gather()))
        return Wrong(field + ".fan_out.gather",
                     absl::StrCat("is ", static_cast<int>(fan_out.gather()), "; use ALL, ALL_FAST or ANY"));
      spec->gather = static_cast<TaskGather>(fan_out.gather());
      for (int i = 0; i < fan_out.children_size(); ++i) {
        const std::string child = absl::StrCat(field, ".fan_out.children[", i, "]");
        if (fan_out.children(i).work().has_fan_out())
          return Wrong(child + ".work.fan_out", "stands in another; a fan-out has one level");
        absl::StatusOr<TaskSpec> read = ReadSpec(fan_out.children(i), child);
        if (!read.ok()) return read.status();
        spec->children.push_back(*std::move(read));
      }
      if (spec->children.empty()) return Wrong(field + ".fan_out.children", "are none; give 1 to 1000");
      return absl::OkStatus();
    }
    case pb::Work::KIND_NOT_SET:
      return Wrong(field,
                   "says nothing that is to be done; give one of model, command, agent, fan_out, job, adapt");
  }
  if (!status.ok()) return status;
  pb::Work known = work;
  known.DiscardUnknownFields();  // they would be kept with it
  spec->input = SameBytes(known);
  return absl::OkStatus();
}

absl::Status ReadRetry(const std::string& field, const pb::RetryPolicy& from, TaskRetry* retry) {
  if (from.has_attempts()) retry->attempts = from.attempts();
  if (from.has_losses()) retry->losses = from.losses();
  if (from.has_factor()) retry->factor = from.factor();
  if (from.has_jitter()) retry->jitter = from.jitter();
  if (!std::isfinite(retry->factor)) return Wrong(field + ".factor", "is no number");
  if (!std::isfinite(retry->jitter)) return Wrong(field + ".jitter", "is no number");
  retry->never.assign(from.never().begin(), from.never().end());
  if (from.has_first_wait()) {
    if (absl::Status s = ReadDuration(field + ".first_wait", from.first_wait(), &retry->first); !s.ok())
      return s;
  }
  if (!from.has_longest_wait()) return absl::OkStatus();
  return ReadDuration(field + ".longest_wait", from.longest_wait(), &retry->most);
}

absl::StatusOr<TaskStatus> ReadStatus(const std::string& field, int status) {
  if (status < static_cast<int>(TaskStatus::kScheduled) || status > kTaskStatuses)
    return Wrong(field, absl::StrCat("is ", status, ", which is none"));
  return static_cast<TaskStatus>(status);
}

protobuf::Timestamp ToTime(TaskTime time) {
  protobuf::Timestamp to;
  const int64_t ms = time.time_since_epoch().count();
  to.set_seconds(ms / 1000);
  to.set_nanos(static_cast<int32_t>(ms % 1000) * 1'000'000);
  return to;
}
protobuf::Duration ToDuration(TaskDuration duration) {
  protobuf::Duration to;
  to.set_seconds(duration.count() / 1000);
  to.set_nanos(static_cast<int32_t>(duration.count() % 1000) * 1'000'000);
  return to;
}

// What executors say may be no UTF-8, which a protobuf text has to be.
std::string ToUtf8(const std::string& text) {
  const bool ascii = std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
  if (ascii) return text;
  return nlohmann::json::parse(JsonText(nlohmann::json(text))).get<std::string>();
}

}  // namespace

absl::StatusOr<TaskSpec> ReadSpec(const pb::TaskSpec& from, const std::string& field) {
  TaskSpec spec;
  if (absl::Status s = ReadWork(field + ".work", from.work(), &spec); !s.ok()) return s;
  spec.context = from.context();
  for (const auto& [key, value] : from.labels()) spec.labels[key] = value;
  spec.priority = from.priority();
  spec.outlives_parent = from.outlives_parent();
  absl::Status s;
  if (from.has_not_before()) s = ReadTime(field + ".not_before", from.not_before(), &spec.not_before);
  if (s.ok() && from.has_retry()) s = ReadRetry(field + ".retry", from.retry(), &spec.retry);
  if (s.ok()) s = ReadDuration(field + ".queue_timeout", from.queue_timeout(), &spec.timeouts.queue);
  if (s.ok()) s = ReadDuration(field + ".run_timeout", from.run_timeout(), &spec.timeouts.run);
  if (s.ok()) s = ReadDuration(field + ".total_timeout", from.total_timeout(), &spec.timeouts.total);
  if (s.ok()) s = ReadDuration(field + ".retain", from.retain(), &spec.retain);
  if (!s.ok()) return s;
  return spec;
}

absl::StatusOr<TaskSchedule> ReadSchedule(const pb::Schedule& from, const std::string& caller) {
  absl::StatusOr<TaskSpec> spec = ReadSpec(from.spec(), "schedule.spec");
  if (!spec.ok()) return spec.status();
  TaskSchedule schedule;
  schedule.caller = caller;
  schedule.name = from.name();
  schedule.cron = from.cron();
  schedule.zone = from.time_zone();
  schedule.paused = from.paused();
  schedule.every_missed = from.every_missed();
  schedule.spec = *std::move(spec);
  return schedule;
}

absl::StatusOr<TaskFilter> ReadFilter(const pb::ListTasksRequest& request) {
  TaskFilter filter;
  if (request.statuses_size() > kTaskStatuses) return Wrong("statuses", "are more than there are");
  for (int i = 0; i < request.statuses_size(); ++i) {
    const absl::StatusOr<TaskStatus> status =
        ReadStatus(absl::StrCat("statuses[", i, "]"), static_cast<int>(request.statuses(i)));
    if (!status.ok()) return status.status();
    filter.statuses.push_back(*status);
  }
  filter.executor = request.executor();
  filter.context = request.context();
  filter.parent = request.parent();
  if (request.has_updated_since()) {
    TaskTime since;
    if (absl::Status s = ReadTime("updated_since", request.updated_since(), &since); !s.ok()) return s;
    filter.updated_since = since;
  }
  return filter;
}

void TellTask(const TaskState& state, pb::Task& task) {
  task.set_id(state.id);
  task.set_status(static_cast<pb::TaskStatus>(state.status));
  task.set_caller(ToUtf8(state.caller));
  task.set_executor(state.executor);
  task.set_target(ToUtf8(state.target));
  task.set_context(ToUtf8(state.context));
  task.set_parent(state.parent);
  task.set_index(state.index);
  task.set_attempt(state.attempt);
  task.set_failures(state.failures);
  task.set_losses(state.losses);
  task.set_retries(state.retries);
  task.set_cancel_requested(state.cancel_requested);
  if (state.created != TaskTime{}) *task.mutable_created() = ToTime(state.created);
  if (state.updated != TaskTime{}) *task.mutable_updated() = ToTime(state.updated);
  if (state.ended != TaskTime{}) *task.mutable_ended() = ToTime(state.ended);
  if (state.ready != TaskTime{}) *task.mutable_ready() = ToTime(state.ready);
  task.set_node(ToUtf8(state.node));
  task.set_error(ToUtf8(state.error));
  task.set_message(ToUtf8(state.message));
  task.set_last_event(state.last_event);
  task.set_children(state.children);
  task.set_children_over(state.children_over);
  task.set_children_succeeded(state.children_succeeded);
}

void TellEvent(const TaskId& id, const TaskEvent& event, pb::TaskEvent& message) {
  message.set_task(id);
  message.set_number(event.number);
  *message.mutable_time() = ToTime(event.time);
  message.set_kind(static_cast<pb::TaskEvent::Kind>(event.kind));
  message.set_attempt(event.attempt);
  message.set_status(static_cast<pb::TaskStatus>(event.status));
  message.clear_ready();  // the event before it in a stream may have had one
  if (event.ready != TaskTime{}) *message.mutable_ready() = ToTime(event.ready);
  message.set_node(ToUtf8(event.node));
  message.set_name(ToUtf8(event.name));
  message.set_data(event.data);
}

absl::StatusOr<TaskEvent> ReadEvent(const pb::TaskEvent& from) {
  TaskEvent event;
  const int kind = static_cast<int>(from.kind());
  if (kind < static_cast<int>(TaskEventKind::kSubmitted) || kind > static_cast<int>(TaskEventKind::kOver))
    return Wrong("kind", absl::StrCat("is ", kind, ", which this program does not know"));
  event.kind = static_cast<TaskEventKind>(kind);
  const absl::StatusOr<TaskStatus> status = ReadStatus("status", static_cast<int>(from.status()));
  if (!status.ok()) return status.status();
  event.status = *status;
  event.number = from.number();
  event.attempt = from.attempt();
  if (absl::Status s = ReadTime("time", from.time(), &event.time); !s.ok()) return s;
  if (from.has_ready()) {
    if (absl::Status s = ReadTime("ready", from.ready(), &event.ready); !s.ok()) return s;
  }
  event.node = from.node();
  event.name = from.name();
  event.data = from.data();
  return event;
}

TaskSpec KeptSpec(const TaskRecord& record, const TaskWork& work) {
  TaskSpec spec;
  spec.executor = record.state.executor;
  spec.target = record.state.target;
  spec.context = record.state.context;
  spec.input = work.input;
  spec.labels = work.labels;
  spec.priority = record.priority;
  spec.retain = record.retain;
  spec.retry = record.retry;
  spec.timeouts = record.timeouts;
  spec.outlives_parent = record.outlives_parent;
  spec.gather = record.gather;
  return spec;
}

void TellSpec(const TaskSpec& spec, pb::TaskSpec& message) {
  pb::Work& work = *message.mutable_work();
  if (spec.executor == kFanout) {
    work.mutable_fan_out()->set_gather(static_cast<pb::FanOut::Gather>(spec.gather));
    for (const TaskSpec& child : spec.children) TellSpec(child, *work.mutable_fan_out()->add_children());
  } else if (!work.ParseFromString(spec.input)) {
    work.Clear();  // of another program, and of no use to a client
  }
  message.set_priority(spec.priority);
  if (spec.not_before != TaskTime{}) *message.mutable_not_before() = ToTime(spec.not_before);
  pb::RetryPolicy& retry = *message.mutable_retry();
  retry.set_attempts(spec.retry.attempts);
  retry.set_losses(spec.retry.losses);
  *retry.mutable_first_wait() = ToDuration(spec.retry.first);
  *retry.mutable_longest_wait() = ToDuration(spec.retry.most);
  retry.set_factor(spec.retry.factor);
  retry.set_jitter(spec.retry.jitter);
  for (const std::string& error : spec.retry.never) retry.add_never(ToUtf8(error));
  if (spec.timeouts.queue.count() != 0) *message.mutable_queue_timeout() = ToDuration(spec.timeouts.queue);
  if (spec.timeouts.run.count() != 0) *message.mutable_run_timeout() = ToDuration(spec.timeouts.run);
  if (spec.timeouts.total.count() != 0) *message.mutable_total_timeout() = ToDuration(spec.timeouts.total);
  for (const auto& [key, value] : spec.labels) (*message.mutable_labels())[ToUtf8(key)] = ToUtf8(value);
  message.set_context(ToUtf8(spec.context));
  if (spec.retain.count() != 0) *message.mutable_retain() = ToDuration(spec.retain);
  message.set_outlives_parent(spec.outlives_parent);
}

void TellSchedule(const TaskSchedule& schedule, pb::Schedule& message) {
  message.set_name(ToUtf8(schedule.name));
  message.set_cron(ToUtf8(schedule.cron));
  message.set_time_zone(ToUtf8(schedule.zone));
  TellSpec(schedule.spec, *message.mutable_spec());
  message.set_paused(schedule.paused);
  message.set_every_missed(schedule.every_missed);
  if (schedule.next != TaskTime{}) *message.mutable_next() = ToTime(schedule.next);
  if (schedule.last != TaskTime{}) *message.mutable_last() = ToTime(schedule.last);
  message.set_last_task(schedule.last_task);
  message.set_caller(ToUtf8(schedule.caller));
}

}  // namespace omni
