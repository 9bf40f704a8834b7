#include "cluster/warm_keeper.h"

namespace omni {

// Each expert is asked for once, by whoever would be asked: what does not fit pushes out what has not been
// used, as it would when decoding.
absl::Status WarmKeeper::Keep(RegionId region, const std::vector<std::string>&,
                              const std::function<void(Progress)>&, const std::stop_token& stop) {
  if (experts_.resident()) return absl::OkStatus();
  const int64_t before = cache_ == nullptr ? 0 : cache_->stats().read_bytes;
  for (int64_t l = 0; l < config_.layers; ++l) {
    if (config_.IsAttention(l)) continue;
    for (int32_t e = 0; e < static_cast<int32_t>(config_.num_experts()); ++e) {
      if (config_.RegionOf(ExpertId(e)) != region) continue;
      if (stop.stop_requested()) return absl::CancelledError("it is not wanted any more");
      const absl::StatusOr<ExpertTiles> tiles =
          experts_.Acquire(LayerId(static_cast<int32_t>(l)), ExpertId(e));
      if (!tiles.ok()) return tiles.status();
    }
    // The rest would push out what has just come.
    if (cache_ != nullptr && kept_ > 0 && cache_->stats().read_bytes - before > cache_->bytes() / kept_)
      break;
  }
  return absl::OkStatus();
}

}  // namespace omni
