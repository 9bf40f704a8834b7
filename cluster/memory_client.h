// What a program says to the memory of a server.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/memory.h"
#include "cluster/cluster_client.h"

namespace omni {

struct Forgotten {
  int64_t records = 0;  // by the call that was answered
  // One before it was cut off, and may have been done: its records are not among these.
  bool perhaps_more = false;
};

// omni.memory.v1.Memory of a cluster: whoever leads it is found, and asked again while nobody answers.
// Thread-safe.
class RemoteMemory {
 public:
  static absl::StatusOr<std::unique_ptr<RemoteMemory>> Make(ClusterClientOptions options);
  ~RemoteMemory();

  // As Memory's of the same name. Add may have been done more than once when it is OK, which changes nothing
  // but the scope's version.
  absl::Status Add(const std::string& scope, const std::vector<Association>& associations);
  absl::StatusOr<std::optional<Remembered>> Ask(const std::string& scope, const std::string& key);
  absl::StatusOr<Forgotten> Forget(const std::string& scope, const std::optional<std::string>& key);
  absl::StatusOr<std::vector<ScopeStats>> Stats();

 private:
  struct Impl;
  explicit RemoteMemory(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
