// Tasks over gRPC: whatever bytes they are, a task that is kept as it was meant, or an error that says where.
#include <google/protobuf/stubs/logging.h>

#include "actors/task/check_task.h"
#include "cluster/tasks/task_messages.h"
#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

namespace pb = ::omni::tasks::v1;

const int kRuns = 40000;

std::vector<std::string> Seeds() {
  pb::TaskSpec model;
  model.mutable_work()->mutable_model()->set_prompt("the sea");
  model.mutable_work()->mutable_model()->set_temperature(0.5f);
  model.mutable_work()->mutable_model()->add_stops("\n\n");
  model.set_priority(5);
  model.mutable_not_before()->set_seconds(1'800'000'000);
  model.mutable_retry()->set_attempts(4);
  model.mutable_retry()->mutable_first_wait()->set_nanos(1);
  model.mutable_retry()->add_never("refused");
  model.mutable_run_timeout()->set_seconds(5);
  model.mutable_retain()->set_seconds(60);
  (*model.mutable_labels())["name"] = "value";
  model.set_context("context");
  pb::TaskSpec command;
  command.mutable_work()->mutable_command()->set_program("sort");
  command.mutable_work()->mutable_command()->add_arguments("-r");
  (*command.mutable_work()->mutable_command()->mutable_environment())["LANG"] = "en";
  command.mutable_work()->mutable_command()->set_input("x\n");
  pb::TaskSpec fan_out;
  fan_out.mutable_work()->mutable_fan_out()->set_gather(pb::FanOut::ANY);
  *fan_out.mutable_work()->mutable_fan_out()->add_children() = model;
  *fan_out.mutable_work()->mutable_fan_out()->add_children() = command;
  pb::TaskSpec agent;
  agent.mutable_work()->mutable_agent()->set_agent("zero");
  agent.mutable_work()->mutable_agent()->set_message("hello");
  pb::TaskSpec job;
  job.mutable_work()->mutable_job()->set_verb("eval");
  pb::Schedule schedule;
  schedule.set_name("nightly");
  schedule.set_cron("@daily");
  *schedule.mutable_spec() = job;
  pb::ListTasksRequest list;
  list.add_statuses(pb::FAILED);
  list.mutable_updated_since()->set_seconds(3);
  pb::TaskEvent event;
  event.set_number(3);
  event.set_kind(pb::TaskEvent::OUTPUT);
  event.set_status(pb::RUNNING);
  event.set_name("stdout");
  event.set_data("some bytes");
  return {model.SerializeAsString(), command.SerializeAsString(), fan_out.SerializeAsString(),
          agent.SerializeAsString(), job.SerializeAsString(),     schedule.SerializeAsString(),
          list.SerializeAsString(),  event.SerializeAsString()};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  const std::string bytes(View(data, size));
  const google::protobuf::LogSilencer quiet;
  const auto expect_wrong = [](const absl::Status& status) {
    RequireReadable(status);
    Require(absl::IsInvalidArgument(status), "what is wrong is the client's error");
  };

  pb::TaskSpec message;
  if (message.ParseFromString(bytes)) {
    const absl::StatusOr<TaskSpec> spec = ReadSpec(message);
    if (!spec.ok()) {
      expect_wrong(spec.status());
    } else {
      pb::TaskSpec told;
      TellSpec(*spec, told);
      const absl::StatusOr<TaskSpec> again = ReadSpec(told);
      Require(again.ok() && Encode(*again) == Encode(*spec), "a task is told as it was handed in");
      if (const absl::Status checked = CheckTask({"", "", *spec}, {}); !checked.ok()) expect_wrong(checked);
    }
  }
  pb::Schedule plan;
  if (plan.ParseFromString(bytes)) {
    const absl::StatusOr<TaskSchedule> schedule = ReadSchedule(plan, "anna");
    if (!schedule.ok()) {
      expect_wrong(schedule.status());
    } else {
      pb::Schedule told;
      TellSchedule(*schedule, told);
      const absl::StatusOr<TaskSchedule> again = ReadSchedule(told, "anna");
      Require(again.ok() && Encode(*again) == Encode(*schedule), "a schedule is told as it was given");
    }
  }
  pb::ListTasksRequest list;
  if (list.ParseFromString(bytes)) {
    if (const auto filter = ReadFilter(list); !filter.ok()) expect_wrong(filter.status());
  }
  pb::TaskEvent said;
  if (said.ParseFromString(bytes)) {
    const absl::StatusOr<TaskEvent> event = ReadEvent(said);
    if (!event.ok()) {
      expect_wrong(event.status());
    } else {
      pb::TaskEvent told;
      TellEvent("id", *event, told);
      const absl::StatusOr<TaskEvent> again = ReadEvent(told);
      Require(again.ok() && Encode(*again) == Encode(*event), "an event is told as it is");
    }
  }
  // What an executor said may be any bytes.
  TaskState state;
  state.message = bytes;
  pb::Task task;
  TellTask(state, task);
  pb::Task read;
  Require(read.ParseFromString(task.SerializeAsString()), "a task can be read by whoever gets it");
  return 0;
}
