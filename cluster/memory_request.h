// What clients of /v1/memory say. Nothing here knows of sockets or disks.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "store/state/memory_records.h"

namespace omni {

// Of one message.
inline constexpr int kMostAssociations = 1000;

// The scope's name; empty: "default".
inline std::string ScopeOrDefault(const std::string& scope) { return scope.empty() ? "default" : scope; }

struct MemoryAddition {
  std::string scope;
  std::vector<Association> associations;  // 1 to kMostAssociations
};
struct MemoryQuestion {
  std::string scope;
  std::optional<std::string> key;  // nothing: of forgetting alone, all of the scope
};

// Errors are the client's, in OpenAI's form (openai_fields.h).
absl::StatusOr<MemoryAddition> ReadMemoryAddition(std::string_view body);
absl::StatusOr<MemoryQuestion> ReadMemoryQuestion(std::string_view body);
absl::StatusOr<MemoryQuestion> ReadMemoryForgetting(std::string_view body);

}  // namespace omni
