// Models of which some regions alone are opened.
#include "store/model/region_experts.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "store/model/model.h"
#include "tests/store/model/streamed_fixture.h"
#include "tests/testing/tile_readers.h"

namespace omni {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::SameTiles;
using testing::StreamedConfig;

class RegionTest : public testing::StreamedTest {
 protected:
  static OpenOptions Regions(std::vector<RegionId> regions, Residency residency = Residency::kWhole) {
    OpenOptions options;
    options.regions = std::move(regions);
    options.residency = residency;
    if (residency == Residency::kStreamed) options.ram_bytes = int64_t{1} << 30;
    return options;
  }
  std::string dir() const { return temp_ / "m"; }
  std::string pack() const { return dir() + "/packs/tiles-000.bin"; }

  // Every expert of the model: those of `regions` as the whole model has them, the others refused.
  void ExpectServes(const Model& model, const Model& whole, const std::set<RegionId>& regions) {
    for (int32_t layer = 0; layer < config_.layers; ++layer) {
      if (config_.IsAttention(layer)) continue;
      for (int32_t e = 0; e < config_.num_experts(); ++e) {
        SCOPED_TRACE(absl::StrCat("layer ", layer, ", expert ", e));
        const auto got = model.experts().Acquire(LayerId(layer), ExpertId(e));
        if (regions.contains(config_.RegionOf(ExpertId(e)))) {
          ASSERT_TRUE(got.ok()) << got.status();
          EXPECT_TRUE(SameTiles(config_, *got, *whole.experts().Acquire(LayerId(layer), ExpertId(e))));
        } else {
          EXPECT_TRUE(absl::IsFailedPrecondition(got.status())) << got.status();
          EXPECT_THAT(got.status().message(),
                      AllOf(HasSubstr(dir()), HasSubstr(absl::StrCat("expert ", e)),
                            HasSubstr(absl::StrCat("region ", config_.RegionOf(ExpertId(e)).value)),
                            HasSubstr("not opened")));
        }
      }
    }
    EXPECT_TRUE(absl::IsInvalidArgument(model.experts().Acquire(LayerId(7), ExpertId(0)).status()));
    EXPECT_TRUE(absl::IsInvalidArgument(model.experts().Acquire(LayerId(0), ExpertId(99)).status()));
  }
  void FlipBitOf(const TileRef& tile) {
    std::fstream file(pack(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(tile.offset));
    const char old = static_cast<char>(file.get());
    file.seekp(static_cast<std::streamoff>(tile.offset));
    file.put(static_cast<char>(old ^ 4));
  }
};

TEST_F(RegionTest, ServesTheExpertsOfItsRegionsAndRefusesOthersByName) {
  for (const PackOptions& packing : {PackOptions(), PackOptions{.whole = true}}) {
    std::filesystem::remove_all(dir());
    std::filesystem::remove_all(temp_ / "c");
    Pack(StreamedConfig(), packing);
    const Model whole = OpenResident();
    for (const Residency residency : {Residency::kWhole, Residency::kStreamed}) {
      for (const std::vector<RegionId>& regions :
           {std::vector<RegionId>{RegionId(0)}, {RegionId(1)}, {RegionId(1), RegionId(0), RegionId(1)}}) {
        const absl::StatusOr<Model> model = OpenModel(dir(), Regions(regions, residency));
        ASSERT_TRUE(model.ok()) << model.status();
        EXPECT_EQ(model->experts().resident(), residency == Residency::kWhole);
        ExpectServes(*model, whole, {regions.begin(), regions.end()});
        EXPECT_EQ(model->hash(), whole.hash());
        EXPECT_EQ(model->stats().unique_tiles, whole.stats().unique_tiles);
      }
    }
  }
}

TEST_F(RegionTest, ServesExpertsThatAreHeldAsScatteredDeltas) {
  Pack(testing::NearlyEqualExperts(testing::ShortConfig()));
  const Model whole = OpenResident();
  ASSERT_GT(whole.stats().inline_tiles, 0);
  for (const Residency residency : {Residency::kWhole, Residency::kStreamed}) {
    const absl::StatusOr<Model> model = OpenModel(dir(), Regions({RegionId(0), RegionId(2)}, residency));
    ASSERT_TRUE(model.ok()) << model.status();
    ExpectServes(*model, whole, {RegionId(0), RegionId(2)});
  }
}

TEST_F(RegionTest, ReadsTheTilesOfItsRegionsAlone) {
  Pack(StreamedConfig());
  std::set<std::pair<uint32_t, uint64_t>> read;
  int reads = 0;
  const auto note = [&](const TileRead& tile) -> testing::Fault {
    read.insert({tile.ref.pack, tile.ref.offset});
    ++reads;
    return {};
  };
  const auto reader = [&] {
    return std::make_unique<testing::SpoiltTiles>(MakePackReader(), pack(), payload(), note);
  };
  std::vector<std::set<std::pair<uint32_t, uint64_t>>> by_region;
  for (int32_t region : {0, 1}) {
    ASSERT_TRUE(OpenModel(dir(), Regions({RegionId(region)}), reader()).ok());
    EXPECT_EQ(reads, static_cast<int>(read.size()));  // none twice
    by_region.push_back(std::exchange(read, {}));
    reads = 0;
  }
  // No two regions of this model share a tile: together they read what there is.
  EXPECT_EQ(static_cast<int64_t>(by_region[0].size() + by_region[1].size()),
            OpenResident().stats().stored_tiles);
  // So a damaged tile of one region is nothing to the other.
  TileRef damaged;
  damaged.offset = by_region[1].begin()->second;
  FlipBitOf(damaged);
  EXPECT_TRUE(OpenModel(dir(), Regions({RegionId(0)})).ok());
  const absl::Status status = OpenModel(dir(), Regions({RegionId(1)})).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr(pack()), HasSubstr("tile "), HasSubstr("of expert "), HasSubstr("checksum")));
}

TEST_F(RegionTest, ATileThatCannotBeReadIsNamed) {
  Pack(StreamedConfig());
  for (const testing::Fault::Kind kind :
       {testing::Fault::Kind::kFlipBit, testing::Fault::Kind::kShorten, testing::Fault::Kind::kFail}) {
    int reads = 0;
    const auto rule = [&](const TileRead&) -> testing::Fault {
      return {reads++ == 3 ? kind : testing::Fault::Kind::kNone, 100};
    };
    const absl::Status status =
        OpenModel(dir(), Regions({RegionId(1)}),
                  std::make_unique<testing::SpoiltTiles>(MakePackReader(), pack(), payload(), rule))
            .status();
    EXPECT_THAT(status.message(), AllOf(HasSubstr(pack()), HasSubstr("tile "), HasSubstr("of expert ")))
        << status;
  }
}

TEST_F(RegionTest, WhatTheModelDoesNotHaveIsRefused) {
  Pack(StreamedConfig());
  for (const int32_t region : {-1, 2, 99}) {
    const absl::Status status = OpenModel(dir(), Regions({RegionId(0), RegionId(region)})).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(status.message(), AllOf(HasSubstr(dir()), HasSubstr(absl::StrCat("region ", region))));
  }
}

TEST_F(RegionTest, ItsMemoryIsThatOfItsRegions) {
  Pack(StreamedConfig());
  OpenOptions options = Regions({RegionId(1)});
  options.shared = false;
  options.sessions = 0;
  const int64_t bytes = *WholeModelBytes(dir(), options);
  EXPECT_EQ(bytes, OpenResident().stats().stored_tiles / 2 * tile_bytes_);
  options.ram_bytes = bytes;
  const absl::StatusOr<Model> model = OpenModel(dir(), options);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->plan()->used_bytes(), bytes);
  options.ram_bytes = bytes - 1;
  EXPECT_TRUE(absl::IsResourceExhausted(OpenModel(dir(), options).status()));
  // A cache has slots for no more than the regions' tiles.
  const absl::StatusOr<Model> streamed = OpenModel(dir(), Regions({RegionId(1)}, Residency::kStreamed));
  EXPECT_EQ(streamed->plan()->cache_tiles, OpenResident().stats().stored_tiles / 2);
}

TEST_F(RegionTest, WithoutSharedWeightsExpertsAreServedAllTheSame) {
  Pack(StreamedConfig());
  const Model whole = OpenResident();
  for (const Residency residency : {Residency::kWhole, Residency::kStreamed}) {
    for (const std::vector<RegionId>& regions : {std::vector<RegionId>{}, {RegionId(0)}}) {
      OpenOptions options = Regions(regions, residency);
      options.shared = false;
      const absl::StatusOr<Model> model = OpenModel(dir(), options);
      ASSERT_TRUE(model.ok()) << model.status();
      EXPECT_TRUE(whole.shared());
      EXPECT_FALSE(model->shared());
      EXPECT_EQ(model->config(), config_);
      EXPECT_EQ(model->hash(), whole.hash());
      std::set<RegionId> served(regions.begin(), regions.end());
      if (regions.empty()) served = {RegionId(0), RegionId(1)};
      ExpectServes(*model, whole, served);
    }
  }
}

TEST_F(RegionTest, AGuessForAnotherRegionIsPassedOver) {
  Pack(StreamedConfig());
  const absl::StatusOr<Model> model = OpenModel(dir(), Regions({RegionId(0)}, Residency::kStreamed));
  ASSERT_TRUE(model.ok()) << model.status();
  const ExpertId other = config_.ExpertOf(RegionId(1), 0);
  model->experts().ReadAhead(RequesterId(), LayerId(0), {&other, 1}, Foresight::kGuess);
  EXPECT_EQ(model->cache()->stats().guessed, 0);
}

TEST_F(RegionTest, WhatWasAcquiredOutlivesTheModelIfItIsInMemory) {
  Pack(StreamedConfig());
  const Model whole = OpenResident();
  ExpertTiles kept;
  {
    const absl::StatusOr<Model> model = OpenModel(dir(), Regions({RegionId(1)}));
    kept = *model->experts().Acquire(LayerId(1), config_.ExpertOf(RegionId(1), 2));
  }
  EXPECT_TRUE(
      SameTiles(config_, kept, *whole.experts().Acquire(LayerId(1), config_.ExpertOf(RegionId(1), 2))));
}

}  // namespace
}  // namespace omni
