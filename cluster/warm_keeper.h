// Keeps regions of a model whose tiles are all here: brings them into memory.
#pragma once

#include <atomic>
#include <vector>

#include "cluster/host.h"
#include "engine/model/config.h"
#include "engine/model/expert_source.h"
#include "store/model/expert_cache.h"

namespace omni {

class WarmKeeper : public RegionKeeper {
 public:
  // `cache`: what the experts are streamed through; null if they are all in memory. All references outlive it.
  WarmKeeper(const ModelConfig& config, ExpertSource& experts, const ExpertCache* cache)
      : config_(config), experts_(experts), cache_(cache) {}

  absl::Status Keep(RegionId region, const std::vector<std::string>& sources,
                    const std::function<void(Progress)>& on_progress, const std::stop_token& stop) override;
  void Release(const std::vector<RegionId>& keep) override { kept_ = static_cast<int64_t>(keep.size()); }

 private:
  const ModelConfig& config_;
  ExpertSource& experts_;
  const ExpertCache* cache_;
  int64_t kept_ = 0;  // regions that share the cache
};

}  // namespace omni
