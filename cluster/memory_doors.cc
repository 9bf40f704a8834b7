#include "cluster/memory_doors.h"

#include <algorithm>
#include <utility>

#include <grpcpp/impl/service_type.h>

#include "cluster/memory_door.h"

namespace omni {
namespace {

constexpr int64_t kShare = 16;  // of a budget, for scopes in memory

}  // namespace

absl::StatusOr<std::unique_ptr<MemoryDoors>> MemoryDoors::Make(MemoryServiceOptions options,
                                                               const std::string& folder, int64_t budget) {
  std::unique_ptr<MemoryDoors> made(new MemoryDoors());
  MemoryLimits limits;
  limits.scope_bytes = std::min(limits.scope_bytes, budget / kShare);
  if (!folder.empty()) made->memory_ = Memory::At(folder, limits);
  absl::StatusOr<std::unique_ptr<MemoryDeeds>> deeds =
      MemoryDeeds::Make(std::move(options), made->memory_.get());
  if (!deeds.ok()) return deeds.status();
  made->deeds_ = *std::move(deeds);
  made->service_ = MakeMemoryService(*made->deeds_);
  made->http_ = std::make_unique<MemoryDoor>(*made->deeds_);
  return made;
}
MemoryDoors::~MemoryDoors() = default;

}  // namespace omni
