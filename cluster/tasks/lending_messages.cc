#include "cluster/tasks/lending_messages.h"

#include <algorithm>
#include <limits>

namespace omni {
namespace {

namespace pb = ::omni::tasks::v1;

void Tell(TaskDuration duration, google::protobuf::Duration& message) {
  message.set_seconds(duration.count() / 1000);
  message.set_nanos(static_cast<int32_t>(duration.count() % 1000) * 1'000'000);
}
// A longer one is as good as this.
TaskDuration Read(const google::protobuf::Duration& message) {
  constexpr int64_t kMostSeconds = int64_t{100} * 366 * 24 * 3600;
  return std::chrono::seconds(std::clamp(message.seconds(), -kMostSeconds, kMostSeconds)) +
         TaskDuration(message.nanos() / 1'000'000);
}

}  // namespace

void TellAssignment(const TaskAssignment& given, pb::TakeResponse::Task& message) {
  const TaskState& state = given.state;
  message.set_id(state.id);
  message.set_caller(state.caller);
  message.set_executor(state.executor);
  message.set_target(state.target);
  message.set_context(state.context);
  message.set_attempt(state.attempt);
  message.set_token(given.token);
  message.set_input(given.work.input);
  for (const auto& [key, value] : given.work.labels) (*message.mutable_labels())[key] = value;
  message.set_checkpoint(given.checkpoint);
  message.set_points(given.points);
  Tell(given.lease, *message.mutable_lease());
  Tell(given.retain, *message.mutable_retain());
  if (given.deadline != TaskTime{}) Tell(given.deadline - state.updated, *message.mutable_time());
}

TaskAssignment ReadAssignment(const pb::TakeResponse::Task& message) {
  TaskAssignment given;
  TaskState& state = given.state;
  state.id = message.id();
  state.caller = message.caller();
  state.executor = message.executor();
  state.target = message.target();
  state.context = message.context();
  state.status = TaskStatus::kRunning;
  state.attempt = message.attempt();
  state.updated = TaskTime(TaskDuration(1));  // of the lender's clock, which is another one
  given.token = message.token();
  given.work.input = message.input();
  for (const auto& [key, value] : message.labels()) given.work.labels[key] = value;
  given.checkpoint = message.checkpoint();
  given.points = message.points();
  given.lease = Read(message.lease());
  given.retain = Read(message.retain());
  if (message.has_time()) given.deadline = state.updated + Read(message.time());
  return given;
}

void TellReport(const TaskReport& report, pb::Report& message) {
  for (const TaskReport::Item& item : report.items) {
    pb::Report::Item& told = *message.add_items();
    told.set_kind(static_cast<int32_t>(item.kind));
    told.set_name(item.name);
    told.set_data(item.data);
  }
  message.set_checkpoint(report.checkpoint);
  message.set_number(report.number);
}

TaskReport ReadReport(const pb::Report& message) {
  TaskReport report;
  for (const pb::Report::Item& told : message.items()) {
    const bool fits = told.kind() > 0 && told.kind() <= std::numeric_limits<uint8_t>::max();
    report.items.push_back(
        {fits ? static_cast<TaskEventKind>(told.kind()) : TaskEventKind::kOver, told.name(), told.data()});
  }
  report.checkpoint = message.checkpoint();
  report.number = message.number();
  return report;
}

}  // namespace omni
