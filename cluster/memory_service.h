// omni.memory.v1.Memory over the memory of this process. No thread of gRPC's waits for a disk.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/memory.h"
#include "cluster/access.h"
#include "cluster/disk_pool.h"

namespace grpc {
class Service;
}

namespace omni {

struct MemoryServiceOptions {
  Access* access = nullptr;  // says who calls; null: nobody in particular
  std::function<absl::Status()>
      serving;  // whether things are remembered here at present; Unavailable says where
  std::function<std::string()> elsewhere;  // the address of whoever does; empty: not known
  int64_t most_waiting = 1000;             // calls that wait for the disk at one time
};

// The deeds that wait for the disk, of all doors of a process. Thread-safe.
class MemoryDeeds {
 public:
  // `memory` null: nothing is ever remembered here. It outlives the deeds. ResourceExhausted: the system
  // refuses the threads.
  static absl::StatusOr<std::unique_ptr<MemoryDeeds>> Make(MemoryServiceOptions options, Memory* memory);
  ~MemoryDeeds();  // when all are done

  // Unavailable: nothing is remembered here at present.
  absl::Status Serving() const;
  const MemoryServiceOptions& options() const { return options_; }
  // ResourceExhausted: too many wait; then it is not done. `failed`: as DiskPool::Run's.
  absl::Status Run(std::function<void(Memory& memory)> deed, std::function<void(const absl::Status&)> failed);

 private:
  MemoryDeeds(MemoryServiceOptions options, Memory* memory) : options_(std::move(options)), memory_(memory) {}

  const MemoryServiceOptions options_;
  Memory* const memory_;
  std::atomic<int64_t> waiting_{0};
  std::unique_ptr<DiskPool> pool_;
};

// `deeds` outlive it, and it its server.
std::unique_ptr<grpc::Service> MakeMemoryService(MemoryDeeds& deeds);

}  // namespace omni
