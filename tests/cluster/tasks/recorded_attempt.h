// An attempt as an executor has it, all of which a test sees, and which it may stop.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cluster/tasks/task_executor.h"

namespace omni::testing {

// Thread-safe.
class RecordedAttempt final : public TaskAttempt {
 public:
  struct Told {
    std::string what, name, data;  // what: "output", "progress", "artifact", "point"
  };
  explicit RecordedAttempt(TaskAssignment task) : task_(std::move(task)) {}

  // Called with all that was told so far, on the executor's thread; null: nothing.
  std::function<void(const std::vector<Told>&)> on_told;

  const TaskAssignment& task() const override { return task_; }
  void Output(std::string_view stream, std::string_view bytes) override {
    if (!bytes.empty()) Add({"output", std::string(stream), std::string(bytes)});
  }
  void Progress(std::string_view text) override { Add({"progress", "", std::string(text)}); }
  void Artifact(std::string_view name, std::string_view where) override {
    Add({"artifact", std::string(name), std::string(where)});
  }
  void Checkpoint(std::string_view piece) override { Add({"point", "", std::string(piece)}); }
  Stop stop() const override {
    const std::lock_guard lock(mutex_);
    return stop_;
  }
  void SetOnStop(std::function<void()> on_stop) override {
    const std::lock_guard lock(on_stop_mutex_);
    on_stop_ = std::move(on_stop);
    if (on_stop_ != nullptr && stop() != Stop::kNo) on_stop_();
  }

  void SetStop(Stop stop) {
    {
      const std::lock_guard lock(mutex_);
      stop_ = stop;
    }
    const std::lock_guard lock(on_stop_mutex_);
    if (on_stop_ != nullptr) on_stop_();
  }
  std::vector<Told> told() const {
    const std::lock_guard lock(mutex_);
    return told_;
  }
  std::string Stream(const std::string& name) const {
    std::string all;
    for (const Told& told : told())
      if (told.what == "output" && told.name == name) all += told.data;
    return all;
  }
  // What the next attempt gets.
  std::string checkpoint() const {
    std::string all = task_.checkpoint;
    for (const Told& told : told())
      if (told.what == "point") all += told.data;
    return all;
  }

 private:
  void Add(Told told) {
    std::vector<Told> all;
    {
      const std::lock_guard lock(mutex_);
      told_.push_back(std::move(told));
      if (on_told != nullptr) all = told_;
    }
    if (on_told != nullptr) on_told(all);
  }

  const TaskAssignment task_;
  mutable std::mutex mutex_;
  std::vector<Told> told_;
  Stop stop_ = Stop::kNo;
  std::mutex on_stop_mutex_;
  std::function<void()> on_stop_;
};

}  // namespace omni::testing
