// What omni task shows of tasks: the answers of omni.tasks.v1 in protobuf's JSON, for people.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "actors/task/task.h"

namespace omni::cli {

void PrintTask(const nlohmann::json& task);       // with its result
void PrintTasks(const nlohmann::json& response);  // of a list, a line each
void PrintSchedules(const nlohmann::json& response);

// What somebody who waits for a task sees of an event: its output as it is, on stdout or stderr, and all else
// as a note on stderr.
void ShowEvent(const TaskEvent& event);

}  // namespace omni::cli
