// Models that are opened with a cache smaller than they are, and what their experts must be.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include <gtest/gtest.h>

#include "store/cache/pack_reader.h"
#include "store/format/model_files.h"
#include "store/format/tile.h"
#include "store/model/model.h"
#include "store/pack/pack.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/random_model.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {

// d = 64: 4 layers, 3 of them with 8 experts of 2 tiles; 2 regions.
inline ModelConfig StreamedConfig() {
  ModelConfig config = SmallConfig();
  config.f = 320;  // 5 tiles, the last one an expert's own
  return config;
}

inline int64_t TileBytes(const ModelConfig& config, int64_t alignment = 64) {
  return PackHeader::For(TileLayout(config.d).payload(), alignment).stride;
}

class StreamedTest : public ::testing::Test {
 protected:
  void Pack(const ModelConfig& config, const PackOptions& options = {}) {
    Pack(RandomCheckpoint(config, 3), options);
  }
  void Pack(const Checkpoint& checkpoint, const PackOptions& options = {}) {
    config_ = checkpoint.config;
    tile_bytes_ = TileBytes(config_, options.tile_alignment > 0 ? options.tile_alignment : 64);
    ASSERT_TRUE(WriteCheckpoint(temp_ / "c", checkpoint).ok());
    const absl::Status packed = PackModel(temp_ / "c", temp_ / "m", options);
    ASSERT_TRUE(packed.ok()) << packed;
  }
  // A cache of so many tiles.
  std::optional<Model> Open(int64_t tiles, OpenOptions options = {},
                            std::unique_ptr<TileReader> reader = nullptr) {
    options.residency = Residency::kStreamed;
    options.cache_bytes = tiles * tile_bytes_;
    auto model = OpenModel(temp_ / "m", options, std::move(reader));
    if (!model.ok()) {
      ADD_FAILURE() << model.status();
      return std::nullopt;
    }
    return *std::move(model);
  }
  Model OpenResident() { return *OpenModel(temp_ / "m"); }
  // What OpenModel makes if it is given no reader.
  std::unique_ptr<TileReader> MakePackReader() {
    const ModelFiles files = *ReadModelFiles(temp_ / "m");
    return std::make_unique<PackReader>(files, *ReadPackHeaders(files), ReadQueueOptions());
  }
  int64_t payload() const { return TileLayout(config_.d).payload(); }
  int64_t tiles_per_expert() const { return TilesPerExpert(config_); }

  TempDir temp_;
  ModelConfig config_;
  int64_t tile_bytes_ = 0;
};

inline ::testing::AssertionResult SameTiles(const ModelConfig& config, const ExpertTiles& a,
                                            const ExpertTiles& b) {
  if (a.tiles.size() != b.tiles.size()) return ::testing::AssertionFailure() << "another number of tiles";
  for (size_t t = 0; t < a.tiles.size(); ++t) {
    if (std::memcmp(a.tiles[t], b.tiles[t], static_cast<size_t>(TileLayout(config.d).payload())) != 0)
      return ::testing::AssertionFailure() << "tile " << t << " differs";
  }
  return ::testing::AssertionSuccess();
}

}  // namespace omni::testing
