// What a node remembers for its callers, and its doors: omni.memory.v1.Memory and /v1/memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "actors/memory.h"
#include "cluster/http/http_routes.h"
#include "cluster/memory_service.h"

namespace omni {

class MemoryDoors {
 public:
  // `folder`: of the memory, opened when it is first needed; empty: nothing is remembered here. `budget`: of
  // the process's memory, bytes; scopes take a sixteenth of it at most, beside it, or what Memory says.
  static absl::StatusOr<std::unique_ptr<MemoryDoors>> Make(MemoryServiceOptions options,
                                                           const std::string& folder,
                                                           int64_t budget = INT64_MAX);
  ~MemoryDoors();  // after the servers

  Memory* memory() { return memory_.get(); }  // null: there is none
  grpc::Service& service() { return *service_; }
  HttpExtension& http() { return *http_; }

 private:
  MemoryDoors() = default;

  std::unique_ptr<Memory> memory_;
  std::unique_ptr<MemoryDeeds> deeds_;
  std::unique_ptr<grpc::Service> service_;
  std::unique_ptr<HttpExtension> http_;
};

}  // namespace omni
