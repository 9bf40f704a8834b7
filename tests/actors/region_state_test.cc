// Regions that share a thread compute together what one layer asks of them.
#include "actors/region_state.h"

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

#include "tests/actors/testing.h"

namespace omni {
namespace {

using omni::testing::HookedSource;
using omni::testing::TinyModel;

class RegionStateTest : public ::testing::Test {
 protected:
  RegionStateTest()
      : source_(tiny_.model, [this](LayerId, ExpertId expert) {
          ++asked_;
          if (expert == torn_) throw std::runtime_error("torn apart");
          return absl::OkStatus();
        }) {}

  // A row for the first expert of the region.
  RegionRequestPtr Request(int32_t region, uint64_t id) {
    const ModelConfig& config = tiny_.model.config();
    auto request = std::make_shared<RegionRequest>();
    request->id = id;
    request->region = RegionId(region);
    request->layer = LayerId(0);
    request->experts.push_back({config.ExpertOf(RegionId(region), 0), 1});
    request->rows = 1;
    request->width = (config.d + 63) / 64 * 64;
    int8_t* q = request->AllocateRows();
    for (int64_t i = 0; i < request->width; ++i)
      q[i] = static_cast<int8_t>(i < config.d ? (i * 7 + static_cast<int64_t>(id) * 3) % 251 - 125 : 0);
    *request->mutable_scale() = 0.01f;
    return request;
  }
  std::vector<float> Alone(const RegionRequestPtr& request) {
    RegionState alone(tiny_.model.config(), tiny_.model, pool_);
    return alone.Start(request, nullptr)->output;
  }

  TinyModel tiny_;
  WorkerPool pool_{2};
  int asked_ = 0;
  ExpertId torn_{-1};
  HookedSource source_;
  RegionState region_{tiny_.model.config(), source_, pool_};
};

TEST_F(RegionStateTest, WhatIsExpectedIsComputedWithTheFirstAndAnsweredByEachsOwnRegion) {
  std::vector<RegionState> regions;
  std::vector<RegionRequestPtr> requests;
  for (int32_t r = 0; r < 6; ++r) {
    regions.push_back(region_.For(RequesterId(r)));
    requests.push_back(Request(r, 10 + static_cast<uint64_t>(r)));
    regions.back().Expect(requests.back());
  }
  for (size_t r : {3, 0, 5, 1, 2, 4}) {
    const RegionReplyPtr reply = regions[r].Start(requests[r], nullptr);
    ASSERT_NE(reply, nullptr);
    EXPECT_EQ(asked_, 6) << "all with the first";
    EXPECT_EQ(reply->request_id, requests[r]->id);
    EXPECT_EQ(reply->region, requests[r]->region);
    EXPECT_EQ(reply->output, Alone(requests[r]));
  }
}

// Experts of the first one's tiles but for the last.
class AlikeSource : public ExpertSource {
 public:
  explicit AlikeSource(ExpertSource& source) : source_(source) {}
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override {
    const ExpertTiles first = *source_.Acquire(layer, ExpertId(0)), own = *source_.Acquire(layer, expert);
    auto tiles = std::make_shared<std::vector<const uint8_t*>>(first.tiles.begin(), first.tiles.end());
    tiles->back() = own.tiles.back();
    return ExpertTiles{*tiles, tiles};
  }

 private:
  ExpertSource& source_;
};

TEST_F(RegionStateTest, FewExpertsThatAreAlikeGiveWhatEachGivesAloneWhateverTheirRegions) {
  AlikeSource alike(tiny_.model);
  const RegionState region(tiny_.model.config(), alike, pool_);
  std::vector<RegionState> regions;
  std::vector<RegionRequestPtr> requests;
  for (int32_t r = 0; r < 4; ++r) {
    regions.push_back(region.For(RequesterId(r)));
    requests.push_back(Request(r, 30 + static_cast<uint64_t>(r)));
    regions.back().Expect(requests.back());
  }
  const std::vector<ExpertTiles> tiles = {*alike.Acquire(LayerId(0), requests[1]->experts[0].expert),
                                          *alike.Acquire(LayerId(0), requests[2]->experts[0].expert)};
  ASSERT_EQ(SharedTiles(tiles), std::ssize(tiles[0].tiles) - 1);
  for (size_t r : {2, 0, 3, 1}) {
    RegionState alone(tiny_.model.config(), alike, pool_);
    EXPECT_EQ(regions[r].Start(requests[r], nullptr)->output, alone.Start(requests[r], nullptr)->output);
  }
}

TEST_F(RegionStateTest, WhatWasNeverStartedIsReplacedByItsRegionsNextRequest) {
  const RegionRequestPtr lost = Request(2, 1), next = Request(2, 2), other = Request(4, 3);
  region_.Expect(lost);
  region_.Expect(other);
  region_.Expect(next);
  EXPECT_EQ(region_.Start(other, nullptr)->output, Alone(other));
  EXPECT_EQ(asked_, 2);
  EXPECT_EQ(region_.Start(next, nullptr)->output, Alone(next));
  EXPECT_EQ(asked_, 2);
  EXPECT_EQ(region_.Start(lost, nullptr)->output, Alone(lost));  // started after all: alone
}

TEST_F(RegionStateTest, WhatIsThrownMeetsTheRegionWhoseExpertItWasAndNoOther) {
  const RegionRequestPtr good = Request(1, 1), bad = Request(2, 2), fine = Request(3, 3);
  torn_ = bad->experts[0].expert;
  for (const RegionRequestPtr& request : {good, bad, fine}) region_.Expect(request);
  EXPECT_EQ(region_.Start(good, nullptr)->output, Alone(good));
  EXPECT_THROW(region_.Start(bad, nullptr), std::runtime_error);
  EXPECT_EQ(region_.Start(fine, nullptr)->output, Alone(fine));
}

}  // namespace
}  // namespace omni
