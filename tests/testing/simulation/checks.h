// What must hold after every event, as far as it is not a matter of one process alone.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "cluster/frames.h"
#include "tests/testing/simulation/world.h"

namespace omni::simulation {

class Checks {
 public:
  explicit Checks(World& world) : world_(world) {}

  // Somebody goes by it that this node owns the region at this epoch: everybody who does means the same node.
  void OnOwner(const std::string& cluster, RegionId region, uint64_t epoch, const std::string& owner,
               const std::string& who) {
    const auto [there, fresh] = owners_.try_emplace({cluster, region.value, epoch}, owner);
    if (fresh || there->second == owner) return;
    world_.Fail(absl::StrCat(who, " goes by owner ", owner, " of region ", region.value, " at epoch ", epoch,
                             ", and somebody else by ", there->second));
  }

 private:
  World& world_;
  std::map<std::tuple<std::string, int32_t, uint64_t>, std::string> owners_;  // by the cluster's id, too
};

}  // namespace omni::simulation
