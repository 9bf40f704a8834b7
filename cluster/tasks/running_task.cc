#include "cluster/tasks/running_task.h"

namespace omni {
namespace {

int StrengthOf(TaskAttempt::Stop stop) {
  switch (stop) {
    case TaskAttempt::Stop::kNo:
      return 0;
    case TaskAttempt::Stop::kReturn:
      return 1;
    case TaskAttempt::Stop::kTimeout:
      return 2;
    case TaskAttempt::Stop::kCancelled:
      return 3;
    case TaskAttempt::Stop::kLost:
      return 4;
  }
  return 0;
}

}  // namespace

RunningTask::RunningTask(TaskAssignment task, Options options)
    : task_(std::move(task)), options_(std::move(options)), told_(options_.limits, task_.points > 0) {}

template <typename Add>
void RunningTask::Tell(Add add) {
  bool wake = false;
  {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return muted_ || told_.bytes() + under_way_ < options_.unsaid_bytes; });
    if (muted_) return;
    const size_t before = told_.bytes();
    add();
    wake = before == 0 || (before < options_.batch_bytes && told_.bytes() >= options_.batch_bytes);
  }
  if (wake) options_.on_told();
}

void RunningTask::Output(std::string_view stream, std::string_view bytes) {
  Tell([&] { told_.Add(TaskEventKind::kOutput, stream, bytes); });
}
void RunningTask::Progress(std::string_view text) {
  Tell([&] { told_.Add(TaskEventKind::kProgress, "", text); });
}
void RunningTask::Artifact(std::string_view name, std::string_view where) {
  Tell([&] { told_.Add(TaskEventKind::kArtifact, name, where); });
}
void RunningTask::Checkpoint(std::string_view piece) {
  Tell([&] { told_.AddPoint(piece); });
}

TaskAttempt::Stop RunningTask::stop() const {
  const std::lock_guard lock(mutex_);
  return stop_;
}

void RunningTask::SetOnStop(std::function<void()> on_stop) {
  const std::lock_guard lock(on_stop_mutex_);
  on_stop_ = std::move(on_stop);
  on_stop_called_ = false;
  if (on_stop_ == nullptr || stop() == Stop::kNo) return;
  on_stop_called_ = true;
  on_stop_();
}

void RunningTask::SetStop(Stop stop) {
  {
    const std::lock_guard lock(mutex_);
    if (StrengthOf(stop) <= StrengthOf(stop_)) return;
    stop_ = stop;
  }
  const std::lock_guard lock(on_stop_mutex_);
  if (on_stop_ == nullptr || std::exchange(on_stop_called_, true)) return;
  on_stop_();
}

void RunningTask::Mute() {
  {
    const std::lock_guard lock(mutex_);
    muted_ = true;
    told_.Clear();
  }
  room_.notify_all();
}

std::optional<TaskReport> RunningTask::NextReport(bool all) {
  const std::lock_guard lock(mutex_);
  const size_t before = told_.bytes();
  std::optional<TaskReport> report = told_.Next(all);
  under_way_ = before - told_.bytes();
  return report;
}

void RunningTask::DropUnpointed() {
  const std::lock_guard lock(mutex_);
  told_.DropUnpointed();
}

void RunningTask::OnSaid() {
  {
    const std::lock_guard lock(mutex_);
    under_way_ = 0;
  }
  room_.notify_all();
}

RunningTask::Waiting RunningTask::waiting() const {
  const std::lock_guard lock(mutex_);
  return {!told_.empty(), told_.bytes() >= options_.batch_bytes};
}

void RunningTask::SetOutcome(TaskOutcome outcome) {
  const std::lock_guard lock(mutex_);
  outcome_ = std::move(outcome);
}

std::optional<TaskOutcome> RunningTask::outcome() const {
  const std::lock_guard lock(mutex_);
  return outcome_;
}

}  // namespace omni
