#include "engine/model/weights.h"

#include <cmath>
#include <functional>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::HasSubstr;

TEST(CheckWeightsTest, AcceptsWholeModels) {
  for (const ModelConfig& config : {testing::TinyConfig(), testing::OddConfig(), testing::FlaglessConfig(),
                                    testing::AheadConfig(), testing::AddressConfig()}) {
    const testing::RandomModel model(config, 1);
    EXPECT_EQ(CheckWeights(model.weights()), absl::OkStatus());
  }
}

TEST(CheckWeightsTest, NamesTheLayerAndTheMatrixThatIsWrong) {
  const testing::RandomModel model(testing::OddConfig(), 1);
  const std::vector<float> infinite(1000, std::numeric_limits<float>::infinity());
  const auto message = [&](const std::function<void(ModelWeights&)>& change) {
    ModelWeights weights = model.weights();
    change(weights);
    return std::string(CheckWeights(weights).message());
  };
  EXPECT_THAT(message([](ModelWeights& w) { w.layers[2].norm1 = nullptr; }),
              HasSubstr("layer 2, norm1: it is missing"));
  EXPECT_THAT(message([&](ModelWeights& w) { w.layers[0].bp = infinite.data(); }),
              HasSubstr("layer 0, bp: element 0"));
  EXPECT_THAT(message([&](ModelWeights& w) { w.layers[1].wk.scale = infinite.data(); }),
              HasSubstr("layer 1, wk"));
  EXPECT_THAT(message([](ModelWeights& w) { w.layers[3].down = w.layers[3].up; }),
              HasSubstr("layer 3, down: it is 130 x 100, the configuration wants 100 x 130"));
  EXPECT_THAT(message([](ModelWeights& w) { w.layers[3].gate.m.num_blocks = 1; }),
              HasSubstr("layer 3, gate"));
  EXPECT_THAT(message([](ModelWeights& w) { w.layers[4].norm_readout = nullptr; }),
              HasSubstr("norm_readout"));
  EXPECT_THAT(message([](ModelWeights& w) { w.layers.pop_back(); }), HasSubstr("there are 4"));
  EXPECT_THAT(message([](ModelWeights& w) { w.embedding.rows = 5; }), HasSubstr("embedding"));
  EXPECT_THAT(message([](ModelWeights& w) { w.config.heads = 3; }), HasSubstr("heads"));
  std::vector<float> positions(18, 0.5f);
  positions[7] = 1.0f;
  EXPECT_THAT(message([&](ModelWeights& w) { w.layers[0].positions = positions.data(); }),
              HasSubstr("positions: element 7 is 1"));
}

TEST(CheckWeightsTest, WantsWhatRoutesAreMadeOfAndNothingElse) {
  const testing::RandomModel ahead(testing::AheadConfig(), 1), address(testing::AddressConfig(), 1);
  ModelWeights weights = ahead.weights();
  weights.layers[0].route_bias = nullptr;
  EXPECT_THAT(CheckWeights(weights).message(), HasSubstr("layer 0, route_bias: it is missing"));
  weights = ahead.weights();
  weights.layers[2].members = address.weights().layers[0].members;
  EXPECT_THAT(CheckWeights(weights).message(), HasSubstr("layer 2, members: it is there although"));
  weights = address.weights();
  weights.layers[1].members = nullptr;
  EXPECT_THAT(CheckWeights(weights).message(), HasSubstr("layer 1, members: it is missing"));
  std::vector<uint8_t> members(static_cast<size_t>(address.config().vocab));
  members[299] = 8;  // regions have eight experts
  weights.layers[1].members = members.data();
  EXPECT_THAT(CheckWeights(weights).message(), HasSubstr("token 299 has member 8 of a region of 8 experts"));
}

TEST(CheckTileTest, AcceptsTritsAndRejectsOtherCodesAndScales) {
  testing::RandomModel model(testing::OddConfig(), 1);
  const TileLayout layout(model.config().d);
  const uint8_t* good = (*model.Acquire(LayerId(0), ExpertId(0))).tiles[0];
  EXPECT_EQ(CheckTile(layout, good), absl::OkStatus());
  Scratch<uint8_t> copy;
  const auto message = [&](int64_t offset, uint8_t byte) {
    uint8_t* tile = copy.Reserve(layout.payload());
    std::copy_n(good, layout.payload(), tile);
    tile[offset] = byte;
    return std::string(CheckTile(layout, tile).message());
  };
  EXPECT_THAT(message(5, 243), HasSubstr("gate and up"));
  EXPECT_THAT(message(layout.down_offset() + 5, 255), HasSubstr("down"));
  EXPECT_THAT(message(layout.up_scale_offset() + 3, 0xff), HasSubstr("up scales"));
  EXPECT_FALSE(CheckTile(layout, nullptr).ok());
}

}  // namespace
}  // namespace omni
