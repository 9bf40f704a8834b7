// The memory of a server, over HTTP.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <nlohmann/json.hpp>

#include "actors/memory.h"
#include "cluster/http/openai_client.h"

namespace omni::cli {

// As Memory's of the same name, by /v1/memory. Texts are UTF-8: of others Add is InvalidArgument.
class HttpMemory {
 public:
  explicit HttpMemory(std::unique_ptr<OpenAiClient> client) : client_(std::move(client)) {}

  absl::Status Add(const std::string& scope, const std::vector<Association>& associations) const;
  absl::StatusOr<std::optional<Remembered>> Ask(const std::string& scope, const std::string& key) const;
  absl::StatusOr<int64_t> Forget(const std::string& scope, const std::optional<std::string>& key) const;
  absl::StatusOr<std::vector<ScopeStats>> Stats() const;

 private:
  absl::StatusOr<nlohmann::json> Call(const std::string& path, const nlohmann::json& body) const;

  std::unique_ptr<OpenAiClient> client_;
};

}  // namespace omni::cli
