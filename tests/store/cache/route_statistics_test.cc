#include "store/cache/route_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "store/format/delta_db.h"
#include "store/pack/pack.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using testing::TempDir;

// 4 x 2 x 1 experts in regions of 2 x 2 x 1, and two expert layers.
ModelConfig TwoLayers() {
  ModelConfig config = testing::SmallConfig();
  config.layers = 2, config.attention_period = 4;
  return config;
}

std::vector<TokenId> Tokens(std::initializer_list<int32_t> ids) {
  std::vector<TokenId> tokens;
  for (int32_t id : ids) tokens.emplace_back(id);
  return tokens;
}

std::vector<ExpertId> Experts(std::initializer_list<int32_t> ids) {
  std::vector<ExpertId> experts;
  for (int32_t id : ids) experts.emplace_back(id);
  return experts;
}

TEST(RouteStatistics, CountsStepsWithinATextOnly) {
  const ModelConfig config = TwoLayers();
  RouteStatistics statistics(config);
  // First layer: stays, goes to its neighbour in another region (the torus wraps), to its region, two hops.
  // Second layer: always the same.
  statistics.Add(Tokens({1, 2, 3, 4, 5}), Experts({0, 6, 0, 6, 3, 6, 2, 6, 4, 6}));
  statistics.Add(Tokens({9}), Experts({7, 0}));
  EXPECT_EQ(statistics.tokens(), 6);
  EXPECT_DOUBLE_EQ(statistics.same_expert(), (1 + 4) / 8.0);
  EXPECT_DOUBLE_EQ(statistics.same_region(), (1 + 1 + 4) / 8.0);
  EXPECT_DOUBLE_EQ(statistics.one_hop(), (1 + 1 + 1 + 4) / 8.0);
}

TEST(RouteStatistics, NothingToSayOfNothing) {
  const ModelConfig config = TwoLayers();
  RouteStatistics statistics(config);
  statistics.Add({}, {});
  statistics.Add(Tokens({3}), Experts({1, 2}));
  EXPECT_EQ(statistics.same_expert(), 0);
  EXPECT_EQ(statistics.entropy(), 0);
  EXPECT_EQ(statistics.token_information(), 0);
}

TEST(RouteStatistics, SaysWhatTheTokenTellsOfItsExpert) {
  const ModelConfig config = TwoLayers();
  RouteStatistics statistics(config);
  // First layer: the expert is the token's; second: half of the entropy is.
  statistics.Add(Tokens({0, 1, 2, 3, 0, 1, 2, 3}), Experts({0, 0, 1, 0, 2, 2, 3, 2, 0, 1, 1, 1, 2, 3, 3, 3}));
  EXPECT_DOUBLE_EQ(statistics.entropy(), 2.0);
  EXPECT_NEAR(statistics.token_information(), (1.0 + 0.5) / 2, 1e-12);
}

TEST(LruSimulation, GivesUpTheTileUsedLongestAgo) {
  TempDir temp;
  ModelConfig config = TwoLayers();
  config.f = 128, config.own_neurons = 128;  // two tiles, both an expert's own
  ASSERT_TRUE(testing::WriteRandomCheckpoint(temp / "c", config, 3).ok());
  ASSERT_TRUE(PackModel(temp / "c", temp / "m", {}).ok());
  const auto files = ReadModelFiles(temp / "m");
  ASSERT_TRUE(files.ok()) << files.status();
  const auto packs = ReadPackHeaders(*files);
  const auto db = DeltaDb::Open(files->PathOf(kDeltasFolder));
  ASSERT_TRUE(packs.ok() && db.ok());
  const auto index = TileIndex::Read(*files, *db, *packs);
  ASSERT_TRUE(index.ok()) << index.status();
  LruSimulation cache(**index, 2);
  EXPECT_EQ(cache.hit_share(), 1);
  for (int32_t expert : {0, 1, 0, 2, 1, 2})
    cache.Use(LayerId(0), ExpertId(expert));  // hit: the second 0 and 2
  EXPECT_DOUBLE_EQ(cache.hit_share(), 2.0 / 6);
  EXPECT_EQ(cache.misses(), 8);
  cache.Use(LayerId(1), ExpertId(2));  // a layer's tiles are its own
  EXPECT_EQ(cache.misses(), 10);
}

}  // namespace
}  // namespace omni
