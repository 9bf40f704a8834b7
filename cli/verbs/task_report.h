// What omni task shows of tasks: the answers of omni.tasks.v1 in protobuf's JSON, for people.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "actors/task/task.h"

namespace omni::cli {

void PrintTask(const nlohmann::json& task);       // with its result
void PrintTasks(const nlohmann::json& response);  // of a list, a line each
void PrintSchedules(const nlohmann::json& response);

// What somebody who waits for a task sees of it: its output as it is, on stdout or stderr, and all else as
// notes on stderr. `one_screen`: both are shown in one place, where a note begins a line of its own.
class TaskScreen {
 public:
  explicit TaskScreen(bool one_screen) : one_screen_(one_screen) {}
  void Show(const TaskEvent& event);
  void Say(const std::string& note);

 private:
  const bool one_screen_;
  bool within_line_ = false;
};

}  // namespace omni::cli
