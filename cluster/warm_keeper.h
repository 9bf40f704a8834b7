// Keeps regions for a host: fetches the tiles that its directory lacks from other nodes, and brings them into
// memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cluster/host.h"
#include "engine/model/config.h"
#include "engine/model/expert_source.h"
#include "store/model/expert_cache.h"
#include "store/partial/partial_model.h"

namespace grpc {
class ChannelCredentials;
}

namespace omni {

class WarmKeeper : public RegionKeeper {
 public:
  // `cache`: what the experts are streamed through; null if they are all in memory. All references outlive
  // this.
  WarmKeeper(const ModelConfig& config, ExpertSource& experts, const ExpertCache* cache, PartialModel& files,
             std::shared_ptr<grpc::ChannelCredentials> credentials)
      : config_(config),
        experts_(experts),
        cache_(cache),
        files_(files),
        credentials_(std::move(credentials)) {}

  absl::Status Keep(RegionId region, const std::vector<std::string>& sources,
                    const std::function<void(Progress)>& on_progress, const std::stop_token& stop) override;
  void Release(const std::vector<RegionId>& keep) override { kept_ = keep; }

 private:
  absl::Status Fetch(RegionId region, const std::vector<std::string>& sources,
                     const std::function<void(Progress)>& on_progress, const std::stop_token& stop);
  absl::Status Warm(RegionId region, const std::stop_token& stop);

  const ModelConfig& config_;
  ExpertSource& experts_;
  const ExpertCache* cache_;
  PartialModel& files_;
  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  std::vector<RegionId> kept_;
  uint64_t fetched_ = 0;
};

}  // namespace omni
