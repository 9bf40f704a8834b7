// Directories that hold a part of a model, filled from a whole one beside them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "store/model/model.h"
#include "store/pack/pack.h"
#include "store/partial/partial_model.h"
#include "store/partial/partial_start.h"
#include "tests/store/model/streamed_fixture.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/file_bytes.h"
#include "tests/testing/temp_dir.h"

namespace omni::testing {

// 3 regions of 2 experts, which have a tile of their own, one of their region, and two that experts of all
// regions have.
inline ModelConfig SharingConfig() {
  ModelConfig c = ShortConfig();
  c.route_from = RouteFrom::kAddress, c.slow_rate = 0.25f;
  c.base_neurons = 64, c.member_neurons = 64, c.own_neurons = 64;
  c.f = 4 * 64;
  return c;
}

// Three tiles to a pack file.
inline PackOptions SmallPacks() {
  PackOptions options;
  options.max_pack_bytes = 16384;
  return options;
}

// Manifests and tile tables of the model `from` into `dir`, which becomes a part of it without tiles.
inline absl::Status StartFrom(const std::string& from, const std::string& dir) {
  auto start = PartialStart::Begin(dir);
  if (!start.ok()) return start.status();
  const std::string hash = ReadModelFiles(from)->manifest.ModelHash().Hex();
  absl::Status status =
      start->SetManifests(hash, FileBytes(from + "/model.json"), FileBytes(from + "/deltas.json"));
  while (status.ok() && !start->missing().empty()) {
    const std::string name = start->missing().begin()->first;
    auto file = start->BeginFile(name);
    if (!file.ok()) return file.status();
    status = file->Append(FileBytes(from + "/" + name).substr(static_cast<size_t>(file->size())));
    if (status.ok()) status = start->FinishFile(name, *std::move(file));
  }
  return status.ok() ? start->Finish() : status;
}

// What `to` lacks of the regions, with a commit after every `batch` tiles. Adds how many they were to
// `*moved`.
inline absl::Status CopyTiles(const PartialModel& from, PartialModel& to,
                              const std::vector<RegionId>& regions, int64_t batch = 4,
                              int64_t* moved = nullptr) {
  const auto missing = to.MissingTiles(regions);
  if (!missing.ok()) return missing.status();
  std::string bytes(static_cast<size_t>(from.tile_bytes()), '\0');
  int64_t added = 0;
  for (const TilePlace& tile : *missing) {
    absl::Status status = from.Read(tile, reinterpret_cast<uint8_t*>(bytes.data()));
    if (status.ok()) status = to.Add(tile, bytes);
    if (status.ok() && ++added % batch == 0) status = to.Commit();
    if (!status.ok()) return status;
  }
  if (moved != nullptr) *moved += added;
  return to.Commit();
}

inline std::vector<RegionId> Regions(const std::vector<int32_t>& numbers) {
  std::vector<RegionId> regions;
  for (const int32_t number : numbers) regions.push_back(RegionId(number));
  return regions;
}

class PartialTest : public ::testing::Test {
 protected:
  void SetUp() override { Pack(RandomCheckpoint(SharingConfig(), 7)); }
  void Pack(const Checkpoint& checkpoint) {
    std::filesystem::remove_all(temp_ / "c");
    std::filesystem::remove_all(whole_dir());
    ASSERT_TRUE(WriteCheckpoint(temp_ / "c", checkpoint).ok());
    const absl::Status packed = PackModel(temp_ / "c", whole_dir(), SmallPacks());
    ASSERT_TRUE(packed.ok()) << packed;
    auto opened = PartialModel::Open(whole_dir());
    ASSERT_TRUE(opened.ok()) << opened.status();
    whole_ = *std::move(opened);
    config_ = checkpoint.config;
  }
  std::string whole_dir() const { return temp_ / "whole"; }
  std::string dir() const { return temp_ / "part"; }
  // A fresh part in dir() with these regions.
  std::unique_ptr<PartialModel> Part(const std::vector<int32_t>& regions) {
    absl::Status status = StartFrom(whole_dir(), dir());
    auto part = status.ok() ? PartialModel::Open(dir()) : status;
    if (part.ok()) status = CopyTiles(*whole_, **part, Regions(regions));
    EXPECT_TRUE(part.ok() && status.ok()) << part.status() << status;
    return part.ok() ? *std::move(part) : nullptr;
  }
  int64_t Missing(const PartialModel& part, const std::vector<int32_t>& regions) {
    return static_cast<int64_t>(part.MissingTiles(Regions(regions))->size());
  }
  static OpenOptions Opening(const std::vector<int32_t>& regions, Residency residency = Residency::kWhole) {
    OpenOptions options;
    options.regions = Regions(regions);
    options.shared = false;
    options.residency = residency;
    if (residency == Residency::kStreamed) options.ram_bytes = int64_t{1} << 30;
    return options;
  }
  // All experts of these regions, as `at` has them, are those of the whole model.
  void ExpectServes(const std::string& at, const std::vector<int32_t>& regions) {
    const Model whole = *OpenModel(whole_dir());
    for (const Residency residency : {Residency::kWhole, Residency::kStreamed}) {
      const absl::StatusOr<Model> model = OpenModel(at, Opening(regions, residency));
      ASSERT_TRUE(model.ok()) << model.status();
      EXPECT_EQ(model->hash(), whole.hash());
      for (int32_t layer = 0; layer < config_.layers; ++layer) {
        if (config_.IsAttention(layer)) continue;
        for (int32_t e = 0; e < config_.num_experts(); ++e) {
          if (std::count(regions.begin(), regions.end(), config_.RegionOf(ExpertId(e)).value) == 0) continue;
          const auto got = model->experts().Acquire(LayerId(layer), ExpertId(e));
          ASSERT_TRUE(got.ok()) << got.status();
          EXPECT_TRUE(SameTiles(config_, *got, *whole.experts().Acquire(LayerId(layer), ExpertId(e))));
        }
      }
    }
  }

  TempDir temp_ = TempDir::InMemory();
  ModelConfig config_;
  std::unique_ptr<PartialModel> whole_;
};

}  // namespace omni::testing
