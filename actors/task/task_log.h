// What the log says of tasks: each call is one event of docs/operations.md, "Log". From any thread.
#pragma once

#include <string_view>

#include <absl/status/status.h>

namespace omni {

// Nothing is accepted until it takes writes again; whoever had asked was told so.
void LogTaskStoreFailed(const absl::Status& status);
void LogTaskStoreRecovered();
void LogTaskUnreadable(std::string_view task, const absl::Status& status);

// Of whoever is to be told of a task's events, at a server.
void LogPushFailed(std::string_view server, std::string_view task, int failures, const absl::Status& status);
void LogPushGivenUp(std::string_view server, std::string_view task, const absl::Status& status);

}  // namespace omni
