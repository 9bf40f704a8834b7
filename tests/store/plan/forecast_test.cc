#include "store/plan/forecast.h"

#include <gtest/gtest.h>

#include "store/pack/synth_source.h"

namespace omni {
namespace {

ModelConfig Config(double delta = 0.5) { return *SynthConfig("tiny", 0, 0, delta); }

MemoryPlan PlanOf(const ModelSizes& sizes, double share) {
  MemoryPlan plan;
  plan.unique_tiles = sizes.unique_tiles;
  plan.cache_tiles = static_cast<int64_t>(share * static_cast<double>(sizes.unique_tiles));
  return plan;
}

double Hits(const ModelConfig& config, double share, const Locality& locality) {
  const ModelSizes sizes = ExpectedSizes(config);
  return ExpectedHits(config, sizes, PlanOf(sizes, share), locality);
}

TEST(ForecastTest, ATokenTouchesOneExpertALayerAndTheWholeState) {
  const ModelConfig config = *Preset("perspective-1t");
  const ModelSizes sizes = ExpectedSizes(config);
  const TokenBytes token = BytesPerToken(config, sizes);
  EXPECT_EQ(token.shared, sizes.shared_bytes);
  EXPECT_EQ(token.experts, 60 * 172 * sizes.tile_stride);
  EXPECT_EQ(token.recurrent, int64_t{60} * 4096 * (256 + 1) * 4);  // with what follows the tokens before
  EXPECT_EQ(token.keys_values, int64_t{20} * 2 * 8 * 512 * 128 * 2);
  EXPECT_EQ(token.ram(), token.shared + token.experts + 2 * token.recurrent + token.keys_values);
}

TEST(ForecastTest, OwnTilesAreThoseOfTheConfig) {
  EXPECT_NEAR(OwnTiles(Config(0.5), ExpectedSizes(Config(0.5))), 1, 1e-9);
  EXPECT_NEAR(OwnTiles(Config(0), ExpectedSizes(Config(0))), 0, 1e-9);
  const ModelConfig large = *Preset("perspective-1t");
  EXPECT_NEAR(OwnTiles(large, ExpectedSizes(large)), 17, 1e-9);
}

TEST(ForecastTest, MoreCacheMoreHits) {
  const ModelConfig config = Config();
  double before = 0;
  for (double share : {0.05, 0.2, 0.4, 0.6, 0.8}) {
    const double hits = Hits(config, share, kLocal);
    EXPECT_GT(hits, before) << share;
    EXPECT_LT(hits, 1) << share;
    before = hits;
  }
  EXPECT_EQ(Hits(config, 1, kLocal), 1);
}

TEST(ForecastTest, LocalRoutingHitsMoreThanUniform) {
  const ModelConfig config = Config();
  EXPECT_GT(Hits(config, 0.3, kLocal), 0.05 + Hits(config, 0.3, Uniform(config)));
}

TEST(ForecastTest, UniformRoutingHitsAboutTheShareThatIsThere) {
  // Without tiles of their own, the groups of a layer are the regions, all equally likely.
  EXPECT_NEAR(Hits(Config(0), 0.5, Uniform(Config(0))), 0.5, 0.05);
}

TEST(ForecastTest, TheSameExpertForeverIsAlwaysThere) { EXPECT_EQ(Hits(Config(), 0.1, {1, 0, 0, 0}), 1); }

TEST(ForecastTest, ACacheTooSmallForAnExpertHitsNothing) { EXPECT_EQ(Hits(Config(0), 0, kLocal), 0); }

TEST(ForecastTest, ATorusOfOneExpertHasNowhereElseToGo) {
  ModelConfig config = Config();
  config.lattice = config.region = {1, 1, 1};
  const double hits = Hits(config, 0.5, kLocal);
  EXPECT_GE(hits, 0);
  EXPECT_LE(hits, 1);
}

TEST(ForecastTest, ARateIsBytesOverSpeeds) {
  TokenBytes token;
  token.shared = 600;
  token.experts = 200;
  EXPECT_DOUBLE_EQ(ExpectedRate(token, 1, {1000, 0}, false), 1);        // 800 / (0.8 * 1000)
  EXPECT_DOUBLE_EQ(ExpectedRate(token, 0.5, {1000, 100}, false), 0.5);  // and 100 / 100
  EXPECT_EQ(ExpectedRate(token, 0.5, {1000, 0}, false), 0);
  EXPECT_EQ(ExpectedRate(token, 1, {0, 100}, false), 0);
}

TEST(ForecastTest, WhatIsKnownBeforeItsTokenIsReadMeanwhile) {
  TokenBytes token;
  token.shared = 600;
  token.experts = 200;
  EXPECT_DOUBLE_EQ(ExpectedRate(token, 0.5, {1000, 100}, true), 1);   // 100 / 100 beside 800 / 800
  EXPECT_DOUBLE_EQ(ExpectedRate(token, 0.5, {1000, 50}, true), 0.5);  // 100 / 50 beside 800 / 800
  EXPECT_DOUBLE_EQ(ExpectedRate(token, 0.5, {500, 100}, true), 0.5);
}

TEST(ForecastTest, BaseAndMemberTilesAreTheConfigs) {
  const auto config = SynthConfig("perspective-1t", 0, 0, 0.1, {.base = 0.125, .member = 0.5});
  ASSERT_TRUE(config.ok()) << config.status();
  // Nobody but the base is shared by all: with room for it alone it alone is hit, whoever is chosen.
  ModelSizes sizes = ExpectedSizes(*config);
  EXPECT_NEAR(OwnTiles(*config, sizes), 17, 1e-9);
  MemoryPlan plan = PlanOf(sizes, 1);
  plan.unique_tiles = sizes.unique_tiles + 1;
  EXPECT_GT(ExpectedHits(*config, sizes, plan, Uniform(*config)), 0.99);
  plan.cache_tiles = sizes.unique_tiles / 2;
  const double half = ExpectedHits(*config, sizes, plan, Uniform(*config));
  // Regions and experts fill half of it, and what 8 members have in common is used every eighth time.
  EXPECT_GT(half, 0.7);
  const auto without = SynthConfig("perspective-1t", 0, 0, 0.1);
  const ModelSizes whole = ExpectedSizes(*without);
  plan.unique_tiles = whole.unique_tiles;
  EXPECT_LT(ExpectedHits(*without, whole, plan, Uniform(*without)), half - 0.1);
}

}  // namespace
}  // namespace omni
