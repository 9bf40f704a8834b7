#include "cluster/warm_keeper.h"

#include <algorithm>
#include <span>

#include "cluster/tile_client.h"

namespace omni {

absl::Status WarmKeeper::Keep(RegionId region, const std::vector<std::string>& sources,
                              const std::function<void(Progress)>& on_progress, const std::stop_token& stop) {
  absl::Status fetched = Fetch(region, sources, on_progress, stop);
  if (absl::IsResourceExhausted(fetched)) {
    // What others have taken over stays on the disk until its room is wanted: it may come back.
    if (absl::Status s = files_.ReleaseAllBut(kept_); !s.ok()) return s;
    fetched = Fetch(region, sources, on_progress, stop);
  }
  if (!fetched.ok()) return fetched;
  return Warm(region, stop);
}

absl::Status WarmKeeper::Fetch(RegionId region, const std::vector<std::string>& sources,
                               const std::function<void(Progress)>& on_progress,
                               const std::stop_token& stop) {
  if (files_.Holds(region)) return absl::OkStatus();
  FillOptions options;
  options.peers = sources;
  options.credentials = credentials_;
  options.stop = stop;
  const uint64_t before = fetched_;
  options.progress = [&](const FillProgress& p) {
    fetched_ = before + static_cast<uint64_t>(p.bytes);
    on_progress({static_cast<uint64_t>(p.bytes_wanted - p.bytes), fetched_});
  };
  return FillRegions(files_, std::span(&region, 1), options);
}

// Each expert is asked for once, as a coordinator would ask for it.
absl::Status WarmKeeper::Warm(RegionId region, const std::stop_token& stop) {
  if (experts_.resident()) return absl::OkStatus();
  const int64_t before = cache_ == nullptr ? 0 : cache_->stats().read_bytes;
  const auto sharing = static_cast<int64_t>(std::max<size_t>(kept_.size(), 1));
  for (int64_t l = 0; l < config_.layers; ++l) {
    if (config_.IsAttention(l)) continue;
    for (int32_t e = 0; e < static_cast<int32_t>(config_.num_experts()); ++e) {
      if (config_.RegionOf(ExpertId(e)) != region) continue;
      if (stop.stop_requested()) return absl::CancelledError("it is not wanted any more");
      const absl::StatusOr<ExpertTiles> tiles =
          experts_.Acquire(LayerId(static_cast<int32_t>(l)), ExpertId(e));
      if (!tiles.ok()) return tiles.status();
    }
    // More than its share of the cache would push out what the other regions have there.
    if (cache_ != nullptr && cache_->stats().read_bytes - before > cache_->bytes() / sharing) break;
  }
  return absl::OkStatus();
}

}  // namespace omni
