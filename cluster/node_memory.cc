#include "cluster/node_memory.h"

#include <algorithm>

#include "engine/around/context_stage.h"
#include "engine/around/perspectives.h"
#include "engine/model/session_state.h"
#include "store/format/manifest.h"
#include "store/format/model_files.h"
#include "store/format/tile.h"
#include "store/format/tile_table.h"
#include "store/model/budget.h"
#include "store/plan/machine.h"

namespace omni {

void PlanSessions(const ModelConfig& config, const SwarmOptions& swarm, OpenOptions& open) {
  if (!open.shared) {
    open.sessions = 0;
    return;
  }
  const int64_t state = SessionState::BytesFor(config);
  // As Session::states has it: the CPU looks aside from one state, a device copies it.
  const int64_t looking = swarm.device.kind == DeviceChoice::Kind::kCpu ? 2 : kPerspectives;
  const int64_t contexts = SessionContexts::MostBytes(swarm.max_context);
  open.most_sessions = swarm.coordinator.max_active * (looking + (contexts + state - 1) / state);
}

absl::StatusOr<OpenOptions> FitToOffer(const std::string& model, const PartialModel& partial,
                                       std::optional<int64_t> offered, OpenOptions open) {
  if (offered.has_value()) {
    // What the placement counts on is what the cache has. A coordinator can serve every region if it must,
    // whatever it offers, and needs room for a few experts for that.
    absl::StatusOr<ModelFiles> files = ReadModelFiles(model, {.tiles = false, .shared = false});
    if (!files.ok()) return files.status();
    const ModelConfig& config = files->manifest.config;
    constexpr int64_t kLeastExperts = 4, kTileAlignment = 4096;
    const int64_t tile = PadTo(TileLayout(config.d).payload(), kTileAlignment);
    open.cache_bytes = std::max(*offered, kLeastExperts * TableNumbers(config).tiles() * tile);
    open.residency = Residency::kStreamed;
    if (partial.whole()) {
      absl::StatusOr<int64_t> whole = WholeModelBytes(model, open);
      if (!whole.ok()) return whole.status();
      if (*whole <= *offered) {
        open.cache_bytes.reset();
        open.residency = Residency::kWhole;
      }
    } else {
      open.growing = true;
    }
  } else if (partial.whole()) {
    return FitToMemory(model, std::nullopt, open);
  } else {
    open.residency = Residency::kStreamed;
    open.growing = true;
    open.ram_bytes = Machine().DefaultBudget();
    if (!open.ram_bytes.has_value()) open.ram_bytes = int64_t{4} << 30;
  }
  return open;
}

}  // namespace omni
