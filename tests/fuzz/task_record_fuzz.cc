// Records of tasks: what is accepted is written as the same bytes.
#include "actors/task/task_record.h"

#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 200000;

namespace {

template <typename Decode>
void Check(std::string_view bytes, Decode decode) {
  const auto decoded = decode(bytes);
  if (!decoded.ok()) return RequireReadable(decoded.status());
  Require(Encode(*decoded) == bytes, "a record is written as the bytes it was read from");
}

TaskSpec Spec() {
  TaskSpec spec{.executor = "fanout", .input = "input", .labels = {{"a", "b"}, {"c", "d"}}};
  spec.retry.never = {"x"};
  spec.children = {{.executor = "command"}, {.executor = "model"}};
  return spec;
}

}  // namespace

std::vector<std::string> Seeds() {
  TaskRecord record;
  record.state.id = std::string(32, 'a');
  record.lease.token = std::string(32, 'b');
  TaskSchedule schedule;
  schedule.cron = "* * * * *";
  schedule.spec = Spec();
  return {Encode(record),
          Encode(TaskWork{"input", Spec().labels, Spec().children}),
          Encode(TaskEvent{.number = 1, .data = "d"}),
          Encode(TaskKey{"id", 1}),
          Encode(schedule),
          Encode(TaskListed{TaskStatus::kFailed, "e", "c", "p"})};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  const std::string_view bytes = View(data, size);
  Check(bytes, DecodeTaskRecord);
  Check(bytes, DecodeTaskWork);
  Check(bytes, DecodeTaskEvent);
  Check(bytes, DecodeTaskKey);
  Check(bytes, DecodeTaskSchedule);
  Check(bytes, DecodeTaskListed);
  return 0;
}
