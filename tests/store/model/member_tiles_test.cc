// How tiles of members, which experts of every region have, lie in a model.
#include <gtest/gtest.h>

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "engine/model/neuron_groups.h"
#include "store/model/model.h"
#include "store/pack/pack.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

// A base, a region's and two members' tiles.
ModelConfig MembersConfig() {
  ModelConfig c = testing::OddCheckpointConfig();
  c.route_from = RouteFrom::kAddress, c.slow_rate = 0.25f, c.route_bias = true;
  c.f = 64 + 64 + 128;
  c.base_neurons = 64, c.member_neurons = 128, c.own_neurons = 0;
  return c;
}

// Every member has the weights of the first, but for three in each tile.
testing::Checkpoint NearlyEqualMembers(const ModelConfig& config) {
  testing::Checkpoint c = testing::RandomCheckpoint(config, 5);
  const int64_t size = config.member_neurons * config.d;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if (config.IsAttention(layer)) continue;
    for (const char* part : {"gate", "up", "down"}) {
      std::vector<float>& members = c.tensors.at(absl::StrCat("layers.", layer, ".member.", part)).values;
      for (int64_t m = 1; m < config.experts_per_region(); ++m) {
        std::copy_n(members.begin(), size, members.begin() + m * size);
        for (int64_t tile = 0; tile < size; tile += size / 2) {
          for (int64_t i = 0; i < 3; ++i) members[static_cast<size_t>(m * size + tile + 5 * i)] *= -1.0f;
        }
      }
    }
  }
  return c;
}

TEST(MemberTiles, AreStoredOnceForAllRegionsHoweverLittleTheyDiffer) {
  const ModelConfig config = MembersConfig();
  const testing::TempDir temp;
  ASSERT_TRUE(testing::WriteCheckpoint(temp / "c", NearlyEqualMembers(config)).ok());
  const absl::Status packed = PackModel(temp / "c", temp / "m", {});
  ASSERT_TRUE(packed.ok()) << packed;
  const absl::StatusOr<Model> model = OpenModel(temp / "m");
  ASSERT_TRUE(model.ok()) << model.status();
  int64_t layers = 0;
  for (int64_t layer = 0; layer < config.layers; ++layer) layers += config.IsAttention(layer) ? 0 : 1;
  const ModelStats stats = model->stats();
  EXPECT_EQ(stats.inline_tiles, 0);
  EXPECT_EQ(stats.stored_tiles, layers * UniqueTilesPerLayer(config));
}

}  // namespace
}  // namespace omni
