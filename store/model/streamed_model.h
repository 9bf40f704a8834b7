// ModelDir's implementation for models that are larger than memory: shared weights resident, experts streamed
// from the pack files through a cache of tiles.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "store/cache/tile_cache.h"
#include "store/format/delta_db.h"
#include "store/format/model_files.h"
#include "store/format/shared_weights.h"
#include "store/format/tile_index.h"
#include "store/model/model_dir.h"
#include "store/plan/memory_plan.h"

namespace omni {

class StreamedModel : public ModelDir {
 public:
  static absl::StatusOr<std::unique_ptr<StreamedModel>> Open(const std::string& dir,
                                                             const OpenOptions& options);

  const ModelWeights& weights() const override { return shared_->weights(); }
  const Tokenizer& tokenizer() const override { return shared_->tokenizer(); }
  std::string model_hash() const override { return files_.manifest.ModelHash().Hex(); }
  ModelStats Stats() const override { return stats_; }
  const MemoryPlan* plan() const override { return &plan_; }
  std::optional<CacheStats> cache_stats() const override { return cache_->stats(); }
  std::string streaming() const override;
  std::span<const uint8_t> cache_memory() const override { return cache_->filled_memory(); }
  void ForgetExperts() override { cache_->Clear(); }

  bool resident() const override { return false; }
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override;
  void Request(RequesterId requester, LayerId layer, ExpertId expert, const OnReady& on_ready,
               const OnPartial& on_partial = {}) override;
  void ReadAhead(RequesterId requester, LayerId layer, std::span<const ExpertId> experts) override;
  void ForgetRequester(RequesterId requester) override { cache_->ForgetRequester(requester); }

 private:
  explicit StreamedModel(ModelFiles files) : files_(std::move(files)) {}
  absl::Status Load(const OpenOptions& options);

  ModelFiles files_;
  std::vector<PackHeader> packs_;
  MemoryPlan plan_;
  ModelStats stats_;
  std::optional<SharedWeights> shared_;
  std::optional<DeltaDb> deltas_;
  std::unique_ptr<TileIndex> index_;
  std::unique_ptr<TileCache> cache_;
};

}  // namespace omni
