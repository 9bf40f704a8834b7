#include "store/model/model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/model/session_state.h"
#include "store/cache/pack_reader.h"
#include "store/format/delta_db.h"
#include "store/format/model_files.h"
#include "store/format/shared_weights.h"
#include "store/format/tile_index.h"
#include "store/model/resident_experts.h"

namespace omni {
namespace {

constexpr int64_t kNoLimit = int64_t{1} << 60;

TileContents ContentsOf(const ModelConfig& config, const TileIndex& index) {
  TileContents contents(config);
  contents.Allocate();
  const TableNumbers& numbers = index.numbers();
  for (int64_t table = 0; table < numbers.tables(); ++table) {
    for (int64_t t = 0; t < numbers.tiles(); ++t)
      contents.Set(table, t, contents.NumberOf(index.tile(index.Of(table)[t]).ref.hash));
  }
  return contents;
}

// Of the manifest, as WholeModelBytes.
int64_t WholeBytes(const ModelFiles& files) {
  int64_t bytes = files.manifest.counts.inline_tiles * TileLayout(files.manifest.config.d).payload();
  for (const auto& [name, digest] : files.manifest.files) bytes += digest.bytes;
  return bytes;
}

absl::StatusOr<MemoryPlan> PlanStreamed(const ModelSizes& sizes, const OpenOptions& options) {
  if (!options.cache_bytes.has_value())
    return PlanMemory(sizes, options.ram_bytes.value_or(0), options.sessions);
  absl::StatusOr<MemoryPlan> plan = PlanMemory(sizes, kNoLimit, options.sessions);
  if (!plan.ok()) return plan;
  plan->cache_tiles = std::min(*options.cache_bytes / sizes.tile_stride, plan->unique_tiles);
  plan->ram_bytes = plan->used_bytes();
  return plan;
}

}  // namespace

struct Model::Parts {
  explicit Parts(ModelFiles opened) : files(std::move(opened)), hash(files.manifest.ModelHash().Hex()) {}

  absl::Status Open(const OpenOptions& options, std::unique_ptr<TileReader> reader);
  absl::Status Plan(const OpenOptions& options);
  absl::Status OpenCache(const OpenOptions& options, std::unique_ptr<TileReader> reader);

  ModelFiles files;
  std::string hash;
  std::vector<PackHeader> packs;
  std::optional<MemoryPlan> plan;
  std::optional<SharedWeights> shared;
  std::unique_ptr<ResidentExperts> resident;  // or:
  std::unique_ptr<ExpertCache> cache;
  ModelStats streamed_stats;
};

absl::Status Model::Parts::Open(const OpenOptions& options, std::unique_ptr<TileReader> reader) {
  const bool streamed =
      options.residency == Residency::kStreamed && TableNumbers(files.manifest.config).tables() > 0;
  // Planned before anything of size is loaded.
  if (options.residency == Residency::kStreamed || options.ram_bytes.has_value()) {
    if (absl::Status s = Plan(options); !s.ok()) return s;
  }
  if (absl::Status s = CheckDeltaFiles(files); !s.ok()) return s;
  absl::StatusOr<SharedWeights> loaded = SharedWeights::Load(files);
  if (!loaded.ok()) return loaded.status();
  shared.emplace(*std::move(loaded));
  if (streamed) return OpenCache(options, std::move(reader));
  absl::StatusOr<std::unique_ptr<ResidentExperts>> experts = ResidentExperts::Load(files);
  if (!experts.ok()) return experts.status();
  resident = *std::move(experts);
  return absl::OkStatus();
}

absl::Status Model::Parts::Plan(const OpenOptions& options) {
  absl::StatusOr<std::vector<PackHeader>> headers = ReadPackHeaders(files);
  if (!headers.ok()) return headers.status();
  packs = *std::move(headers);
  if (absl::Status s = CheckTableCount(files, TableNumbers(files.manifest.config)); !s.ok()) return s;
  const ModelSizes sizes = SizesOf(files, packs);
  absl::StatusOr<MemoryPlan> made =
      options.residency == Residency::kStreamed
          ? PlanStreamed(sizes, options)
          : PlanWhole(sizes, WholeBytes(files), *options.ram_bytes, options.sessions);
  if (!made.ok())
    return absl::Status(made.status().code(), absl::StrCat(files.dir, ": ", made.status().message()));
  plan = *made;
  return absl::OkStatus();
}

absl::Status Model::Parts::OpenCache(const OpenOptions& options, std::unique_ptr<TileReader> reader) {
  absl::StatusOr<DeltaDb> deltas = DeltaDb::Open(files.PathOf(kDeltasFolder));
  if (!deltas.ok()) return deltas.status();
  absl::StatusOr<std::unique_ptr<TileIndex>> index = TileIndex::Read(files, *deltas, packs);
  if (!index.ok()) return index.status();
  streamed_stats = CountStats(files, ContentsOf(files.manifest.config, **index));
  TileCacheOptions with_slots = options.cache;
  with_slots.slots = plan->cache_tiles;
  if (reader == nullptr) reader = std::make_unique<PackReader>(files, packs, options.reads);
  absl::StatusOr<std::unique_ptr<ExpertCache>> opened =
      ExpertCache::Open(files, packs, *std::move(deltas), *std::move(index), with_slots, std::move(reader));
  if (!opened.ok()) return opened.status();
  cache = *std::move(opened);
  return absl::OkStatus();
}

Model::Model(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

const ModelWeights& Model::weights() const { return parts_->shared->weights(); }
const Tokenizer& Model::tokenizer() const { return parts_->shared->tokenizer(); }
ExpertSource& Model::experts() const {
  if (parts_->cache) return *parts_->cache;
  return *parts_->resident;
}
ExpertCache* Model::cache() const { return parts_->cache.get(); }
const MemoryPlan* Model::plan() const { return parts_->plan ? &*parts_->plan : nullptr; }
const std::string& Model::hash() const { return parts_->hash; }
ModelStats Model::stats() const {
  return parts_->cache ? parts_->streamed_stats : CountStats(parts_->files, parts_->resident->contents());
}

absl::StatusOr<Model> OpenModel(const std::string& path, const OpenOptions& options,
                                std::unique_ptr<TileReader> reader) {
  absl::StatusOr<ModelFiles> files = ReadModelFiles(path);
  if (!files.ok()) return files.status();
  auto parts = std::make_unique<Model::Parts>(*std::move(files));
  if (absl::Status s = parts->Open(options, std::move(reader)); !s.ok()) return s;
  return Model(std::move(parts));
}

absl::StatusOr<int64_t> WholeModelBytes(const std::string& path, int64_t sessions) {
  ModelFiles files;
  absl::StatusOr<std::string> dir = ModelDirectory(path);
  if (!dir.ok()) return dir.status();
  files.dir = *std::move(dir);
  if (absl::Status s = ReadManifest(&files); !s.ok()) return s;
  return WholeBytes(files) + sessions * SessionState::BytesFor(files.manifest.config);
}

}  // namespace omni
