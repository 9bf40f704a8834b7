// What a streamed model's cache does with requests whose reads a test holds back.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/store/model/streamed_fixture.h"
#include "tests/testing/tile_readers.h"

namespace omni {
namespace {

using testing::SameTiles;
using testing::StreamedTest;
using testing::TileBytes;

class HeldTest : public StreamedTest {
 protected:
  std::optional<Model> OpenHeld(int64_t tiles, PolicyKind policy = PolicyKind::kTorus) {
    OpenOptions options;
    options.cache.policy = policy;
    auto held = std::make_unique<testing::HeldTiles>(temp_ / "m", payload());
    held_ = held.get();
    return Open(tiles, options, std::move(held));
  }
  // Asks and counts the answers.
  void Ask(const Model& model, int32_t layer, int32_t expert, RequesterId requester = RequesterId()) {
    model.experts().Request(requester, LayerId(layer), ExpertId(expert),
                            [this](absl::StatusOr<ExpertTiles> tiles) {
                              if (!tiles.ok()) errors_.push_back(tiles.status());
                              ++answers_;
                              if (keep_) kept_.push_back(*std::move(tiles));
                            });
  }
  void Walk(const Model& model, std::span<const int32_t> experts, RequesterId requester);
  void QueueBehindAnother(const Model& model);

  testing::HeldTiles* held_ = nullptr;
  int answers_ = 0;
  int asked_ = 0;
  bool keep_ = false;
  std::vector<absl::Status> errors_;
  std::vector<ExpertTiles> kept_;
};

TEST_F(HeldTest, WhatIsKnownIsReadWholeAndAGuessOnlyAsFarAsTwoExpertsGo) {
  Pack(testing::StreamedConfig());
  const auto tiles = static_cast<size_t>(tiles_per_expert());
  for (const Foresight foresight : {Foresight::kGuess, Foresight::kKnown}) {
    const auto model = OpenHeld(1000);
    for (int32_t layer = 0; layer < 2; ++layer) {
      for (int32_t e = 0; e < 4; ++e) {
        const ExpertId expert(7 * e % config_.num_experts());
        model->experts().ReadAhead(RequesterId(e), LayerId(layer), {&expert, 1}, foresight);
      }
    }
    if (foresight == Foresight::kGuess) {
      EXPECT_EQ(held_->other(), 2 * tiles);
    } else {
      EXPECT_GT(held_->other(), 2 * tiles);
    }
    held_->LetGo();
  }
}

TEST_F(HeldTest, WhatIsKnownAndFindsNoRoomIsReadAsLayersLetGoOfTheirs) {
  Pack(testing::StreamedConfig());
  const auto tiles = static_cast<size_t>(tiles_per_expert());
  const auto model = OpenHeld(2 * tiles_per_expert());  // one for what is known, one for what is asked for
  const RequesterId requester(1);
  for (int32_t layer = 0; layer < 3; ++layer) {
    const ExpertId expert(5);
    model->experts().ReadAhead(requester, LayerId(layer), {&expert, 1}, Foresight::kKnown);
  }
  EXPECT_EQ(held_->Of(ReadUrgency::kKnown).size(), tiles);
  held_->LetGo();
  Ask(*model, 0, 5, requester);
  EXPECT_EQ(answers_, 1);
  EXPECT_EQ(held_->Of(ReadUrgency::kKnown).size(), 0u);  // layer 0 is being computed
  Ask(*model, 1, 5, requester);                          // layer 0 is over
  EXPECT_EQ(held_->Of(ReadUrgency::kAsked).size(), tiles);
  EXPECT_EQ(held_->Of(ReadUrgency::kKnown).size(), tiles);  // layer 2, and nothing of layer 1 twice
  held_->LetGo();
  EXPECT_EQ(answers_, 2);
  Ask(*model, 2, 5, requester);
  EXPECT_EQ(answers_, 3);
  EXPECT_EQ(model->cache()->stats().ready_requests, 2);
  // Another announcement of a layer takes the place of what still waits.
  for (const int32_t e : {1, 6}) {
    const ExpertId expert(e);
    for (int32_t layer = 0; layer < 2; ++layer)
      model->experts().ReadAhead(requester, LayerId(layer), {&expert, 1}, Foresight::kKnown);
  }
  held_->LetGo();
  Ask(*model, 0, 6, requester);
  held_->LetGo();
  Ask(*model, 1, 6, requester);
  held_->LetGo();
  EXPECT_EQ(answers_, 5);
  EXPECT_EQ(held_->other(), 0u);
}

TEST_F(HeldTest, OfARegionThatIsKnownOnlyWhatAllOfItsExpertsHaveIsRead) {
  ModelConfig config = testing::AddressConfig();
  config.f = 12 * kTileNeurons;
  config.base_neurons = 2 * kTileNeurons;
  config.member_neurons = 3 * kTileNeurons;
  config.own_neurons = 2 * kTileNeurons;
  Pack(config);
  const auto model = OpenHeld(1000);
  const ExpertId first = config_.ExpertOf(RegionId(1), 0), other = config_.ExpertOf(RegionId(1), 3);
  model->experts().ReadAhead(RequesterId(), LayerId(1), {&first, 1}, Foresight::kRegionKnown);
  EXPECT_EQ(held_->Of(ReadUrgency::kKnown).size(), 2u + 5u);
  // The rest follows when the expert is known, and nothing twice.
  model->experts().ReadAhead(RequesterId(), LayerId(1), {&other, 1}, Foresight::kKnown);
  EXPECT_EQ(held_->Of(ReadUrgency::kKnown).size(), static_cast<size_t>(tiles_per_expert()));
  held_->LetGo();
  Ask(*model, 1, other.value);
  EXPECT_EQ(answers_, 1);
}

TEST_F(HeldTest, ExpertsThatAreStoredWholeHaveNothingInCommonThatCouldBeRead) {
  Pack(testing::AddressConfig(), {.whole = true});
  const auto model = OpenHeld(1000);
  const ExpertId first = config_.ExpertOf(RegionId(1), 0);
  model->experts().ReadAhead(RequesterId(), LayerId(1), {&first, 1}, Foresight::kRegionKnown);
  EXPECT_EQ(held_->other(), 0u);
}

// An expert's own tiles lie side by side in their file, and so do those of its place and of its region;
// however often the cache was filled, they go where one call can read them.
TEST_F(HeldTest, TilesSideBySideInAFileAreReadToMemorySideBySide) {
  ModelConfig config = testing::AddressConfig();
  config.f = 20 * kTileNeurons;
  config.base_neurons = 2 * kTileNeurons;
  config.member_neurons = 6 * kTileNeurons;
  config.own_neurons = 5 * kTileNeurons;
  Pack(config);
  for (const PolicyKind policy : {PolicyKind::kTorus, PolicyKind::kLru}) {
    const auto model = OpenHeld(3 * tiles_per_expert(), policy);
    int64_t reads = 0, runs = 0;
    for (int32_t i = 0; i < 60; ++i) {
      const ExpertId expert(i * 5 % static_cast<int32_t>(config_.num_experts()));
      const LayerId layer(i % 3);
      model->experts().ReadAhead(RequesterId(), layer, {&expert, 1}, Foresight::kKnown);
      const auto& known = held_->Of(ReadUrgency::kKnown);
      for (size_t k = 0; k < known.size(); ++k) {
        ++reads;
        const bool beside =
            k > 0 && known[k].ref.pack == known[k - 1].ref.pack &&
            known[k].ref.offset == known[k - 1].ref.offset + static_cast<uint64_t>(tile_bytes_);
        const bool together = beside && known[k].to == known[k - 1].to + tile_bytes_;
        if (!together) ++runs;
      }
      held_->LetGo();
      Ask(*model, layer.value, expert.value);
      held_->LetGo();
    }
    EXPECT_GT(reads, 200);
    EXPECT_LT(runs * 4, reads) << model->cache()->description();
  }
}

TEST_F(HeldTest, AGuessIsReadBehindWhatIsAskedForAndJoinedWhenItWasRight) {
  Pack(testing::StreamedConfig());
  const auto model = OpenHeld(1000);
  const auto tiles = static_cast<size_t>(tiles_per_expert());
  const ExpertId guess(5);
  model->experts().ReadAhead(RequesterId(), LayerId(1), {&guess, 1}, Foresight::kGuess);
  EXPECT_EQ(held_->other(), tiles);
  Ask(*model, 0, 0);
  EXPECT_EQ(held_->urgent(), tiles);
  Ask(*model, 1, 5);
  EXPECT_EQ(held_->urgent(), tiles);  // no tile is read twice
  EXPECT_EQ(held_->promoted(), tiles);
  EXPECT_EQ(answers_, 0);
  held_->LetGo();
  ASSERT_EQ(answers_, 2);
  const CacheStats stats = model->cache()->stats();
  EXPECT_EQ(stats.guessed, tiles_per_expert());
  EXPECT_EQ(stats.guessed_used, tiles_per_expert());
  EXPECT_EQ(stats.joined, tiles_per_expert());
  EXPECT_EQ(stats.misses, tiles_per_expert());
}

TEST_F(HeldTest, ThePartThatIsThereIsToldAtOnceAndIsNotGivenUpMeanwhile) {
  Pack(testing::StreamedConfig());
  const auto model = OpenHeld(2 * tiles_per_expert());
  const Model resident = OpenResident();
  const LayerId layer(0);
  const ExpertId first = config_.ExpertOf(RegionId(0), 0), second = config_.ExpertOf(RegionId(0), 1);
  std::vector<ExpertTiles> parts;
  const auto ask = [&](LayerId l, ExpertId e) {
    model->experts().Request(
        RequesterId(), l, e,
        [this](absl::StatusOr<ExpertTiles> tiles) {
          EXPECT_TRUE(tiles.ok()) << tiles.status();
          ++answers_;
        },
        [&](ExpertTiles part) { parts.push_back(std::move(part)); });
  };
  ask(layer, first);
  EXPECT_TRUE(parts.empty());  // nothing of it is there
  held_->LetGo();
  ASSERT_EQ(answers_, 1);
  ask(layer, first);
  EXPECT_TRUE(parts.empty());  // all of it is there
  ask(layer, second);
  ASSERT_EQ(parts.size(), 1u);
  const ExpertTiles want = *resident.experts().Acquire(layer, second);
  int absent = 0;
  for (size_t t = 0; t < want.tiles.size(); ++t) absent += parts[0].tiles[t] == nullptr;
  EXPECT_EQ(absent, 1);
  held_->LetGo();
  ASSERT_EQ(answers_, 3);
  // What a part holds stays while other experts come and go.
  for (const int32_t expert : {2, 5, 7}) {
    ask(LayerId(1), ExpertId(expert));
    held_->LetGo();
  }
  std::vector<ExpertTiles> held = std::exchange(parts, {});
  for (size_t t = 0; t < want.tiles.size(); ++t) {
    if (held[0].tiles[t] == nullptr) continue;
    EXPECT_EQ(std::memcmp(held[0].tiles[t], want.tiles[t], static_cast<size_t>(payload())), 0);
  }
  held.clear();
  for (int i = 0; i < 3; ++i) {
    std::exchange(parts, {}).clear();  // others may be told of their parts meanwhile
    held_->LetGo();
  }
  EXPECT_EQ(answers_, 6);
}

TEST_F(HeldTest, TilesAreHandedOverAsTheyCome) {
  ModelConfig config = testing::StreamedConfig();
  config.f = 36 * kTileNeurons;
  Pack(config);
  const auto model = OpenHeld(2 * tiles_per_expert());
  const Model resident = OpenResident();
  const ExpertTiles want = *resident.experts().Acquire(LayerId(0), ExpertId(0));
  std::vector<int> handed(want.tiles.size());
  int parts = 0;
  model->experts().Request(
      RequesterId(), LayerId(0), ExpertId(0),
      [&](absl::StatusOr<ExpertTiles> all) {
        ASSERT_TRUE(all.ok()) << all.status();
        EXPECT_TRUE(SameTiles(config, *all, want));
        ++answers_;
      },
      [&](const ExpertTiles& part) {
        EXPECT_EQ(answers_, 0);
        ++parts;
        ASSERT_EQ(part.tiles.size(), want.tiles.size());
        for (size_t t = 0; t < want.tiles.size(); ++t) {
          if (part.tiles[t] == nullptr) continue;
          ++handed[t];
          const auto bytes = static_cast<size_t>(TileLayout(config.d).payload());
          EXPECT_EQ(std::memcmp(part.tiles[t], want.tiles[t], bytes), 0);
        }
      });
  EXPECT_EQ(parts, 0);
  held_->LetGo();
  ASSERT_EQ(answers_, 1);
  EXPECT_EQ(parts, 2);
  EXPECT_EQ(std::accumulate(handed.begin(), handed.end(), 0), 32);
  EXPECT_EQ(*std::max_element(handed.begin(), handed.end()), 1);
}

TEST_F(HeldTest, WhatIsExpectedStaysUntilItsLayerIsOver) {
  Pack(testing::StreamedConfig());
  const auto model = OpenHeld(3 * tiles_per_expert());
  const ExpertId guess(0);
  model->experts().ReadAhead(RequesterId(), LayerId(1), {&guess, 1}, Foresight::kGuess);
  held_->LetGo();
  // Experts of another region fill the cache again and again; the expected one is not given up for them.
  for (int32_t expert : {0, 2, 5, 7, 0, 2, 5, 7}) {
    Ask(*model, 0, expert);
    held_->LetGo();
    ASSERT_EQ(answers_, ++asked_);
  }
  Ask(*model, 1, 0);
  EXPECT_EQ(answers_, ++asked_);
  EXPECT_GE(model->cache()->stats().ready_requests, 1);
}

// Asks for these experts of layers 0 and 2 one after the other, each read at once.
void HeldTest::Walk(const Model& model, std::span<const int32_t> experts, RequesterId requester) {
  for (int32_t expert : experts) {
    for (int32_t layer : {0, 2}) {
      Ask(model, layer, expert, requester);
      held_->LetGo();
      ASSERT_EQ(answers_, ++asked_);
    }
  }
}

TEST_F(HeldTest, AGuessStaysWhateverAnotherRequesterAsksForOrGuesses) {
  Pack(testing::StreamedConfig());
  const auto model = OpenHeld(4 * tiles_per_expert());
  const RequesterId first(1), second(2);
  const ExpertId guess = config_.ExpertOf(RegionId(0), 0), other = config_.ExpertOf(RegionId(1), 0);
  Ask(*model, 0, 0, first);  // both are at work in layer 0
  Ask(*model, 0, 0, second);
  model->experts().ReadAhead(first, LayerId(1), {&guess, 1}, Foresight::kGuess);
  held_->LetGo();
  ASSERT_EQ(answers_, asked_ += 2);
  model->experts().ReadAhead(second, LayerId(1), {&other, 1}, Foresight::kGuess);  // for the same layer
  Ask(*model, 1, other.value, second);  // asks for that layer, and goes on to others
  held_->LetGo();
  ASSERT_EQ(answers_, ++asked_);
  Walk(*model, std::array{0, 2, 5, 7}, second);
  const int64_t ready = model->cache()->stats().ready_requests;
  Ask(*model, 1, guess.value, first);
  EXPECT_EQ(answers_, ++asked_);
  EXPECT_EQ(model->cache()->stats().ready_requests, ready + 1);
}

// The next token's experts are told when the last one's last layer is over.
TEST_F(HeldTest, WhatIsSaidOfTheLayerThatWasAskedLastStaysUntilItIsAskedAgain) {
  Pack(testing::StreamedConfig());
  const auto model = OpenHeld(3 * tiles_per_expert(), PolicyKind::kLru);
  const RequesterId region(1), other(2);
  const ExpertId next = config_.ExpertOf(RegionId(0), 1);
  Ask(*model, 2, 0, region);
  held_->LetGo();
  ASSERT_EQ(answers_, ++asked_);
  model->experts().ReadAhead(region, LayerId(2), {&next, 1}, Foresight::kKnown);
  held_->LetGo();
  Walk(*model, std::array{0}, region);             // the next token's first layer
  Walk(*model, std::array{3, 4, 5, 6, 7}, other);  // others fill the cache
  const int64_t ready = model->cache()->stats().ready_requests;
  Ask(*model, 2, next.value, region);
  EXPECT_EQ(answers_, ++asked_);
  EXPECT_EQ(model->cache()->stats().ready_requests, ready + 1);
}

TEST_F(HeldTest, TheGuessesOfARequesterThatIsForgottenAreGivenUpForOthers) {
  Pack(testing::StreamedConfig());
  const auto model = OpenHeld(2 * tiles_per_expert(), PolicyKind::kLru);
  const RequesterId first(1), second(2);
  const ExpertId guess(0);
  model->experts().ReadAhead(first, LayerId(1), {&guess, 1}, Foresight::kGuess);
  Walk(*model, std::array{0}, second);
  EXPECT_EQ(model->cache()->stats().evicted, tiles_per_expert());  // of layer 0, not the guess
  model->experts().ForgetRequester(first);
  model->experts().ForgetRequester(RequesterId(3));  // never seen
  Walk(*model, std::array{0, 0}, second);            // both fit now
  EXPECT_EQ(model->cache()->stats().evicted, 2 * tiles_per_expert());
}

// Of a model of three layers of experts and a cache of three experts: holds two experts and a tile, so that
// an expert of layer 1 finds no room, and one that is there waits behind it; the room left goes to a guess.
void HeldTest::QueueBehindAnother(const Model& model) {
  keep_ = true;
  const ExpertId first = config_.ExpertOf(RegionId(0), 0), sibling = config_.ExpertOf(RegionId(0), 1);
  Ask(model, 0, first.value);
  Ask(model, 2, first.value);
  Ask(model, 0, sibling.value);  // one tile more
  held_->LetGo();
  ASSERT_EQ(answers_, 3);
  Ask(model, 1, first.value);
  Ask(model, 0, first.value);
  EXPECT_EQ(model.cache()->stats().waiting, 2);
  const ExpertId guess = config_.ExpertOf(RegionId(1), 0);
  model.experts().ReadAhead(RequesterId(), LayerId(1), {&guess, 1}, Foresight::kGuess);
  held_->LetGo();
  kept_.pop_back();  // the sibling's own tile, which is not enough
  EXPECT_EQ(model.cache()->stats().waiting, 2);
}

TEST_F(HeldTest, ARequestThatIsServedWhenTheOneBeforeItGetsRoomWaitsNoLonger) {
  Pack(testing::StreamedConfig());
  for (const bool by_request : {false, true}) {
    SCOPED_TRACE(by_request);
    answers_ = 0;
    const auto model = OpenHeld(3 * tiles_per_expert());
    QueueBehindAnother(*model);
    if (by_request) {  // ... of another layer: the guess is over
      Ask(*model, 2, config_.ExpertOf(RegionId(0), 0).value);
      EXPECT_EQ(answers_, 3 + 2);
    } else {
      model->cache()->Forget();
      EXPECT_EQ(answers_, 3 + 1);
    }
    EXPECT_EQ(model->cache()->stats().waiting, 1);
    held_->LetGo();
    ASSERT_EQ(answers_, by_request ? 6 : 5);
    EXPECT_EQ(model->cache()->stats().waiting, 0);
    kept_.clear();
  }
}

TEST_F(HeldTest, ShrinkingWaitsForTilesInUseAndNeverTakesThemAway) {
  Pack(testing::StreamedConfig());
  keep_ = true;
  const int64_t tiles = tiles_per_expert();
  const auto model = OpenHeld(4 * tiles);
  const Model resident = OpenResident();
  for (int32_t layer = 0; layer < 3; ++layer) Ask(*model, layer, 3);
  const ExpertId foreseen(1);
  model->experts().ReadAhead(RequesterId(), LayerId(1), {&foreseen, 1}, Foresight::kKnown);
  held_->LetGo();
  ASSERT_EQ(answers_, 3);
  std::atomic<bool> over = false;
  std::thread shrinking([&] {
    EXPECT_EQ(model->cache()->Resize(2 * tiles * tile_bytes_), absl::OkStatus());
    over = true;
  });
  while (model->cache()->bytes() != 2 * tiles * tile_bytes_) std::this_thread::yield();
  // What is in use beyond the new size is still there, and still what it was.
  for (int32_t layer = 0; layer < 3; ++layer) {
    EXPECT_TRUE(SameTiles(config_, kept_[static_cast<size_t>(layer)],
                          *resident.experts().Acquire(LayerId(layer), ExpertId(3))));
  }
  Ask(*model, 0, 6);  // there is no room before two of them have gone
  EXPECT_EQ(model->cache()->stats().waiting, 1);
  EXPECT_FALSE(over);
  kept_.clear();
  shrinking.join();
  EXPECT_TRUE(over);
  while (answers_ < 4) held_->LetGo();
  kept_.clear();
  EXPECT_TRUE(errors_.empty());
  // And it grows again.
  EXPECT_EQ(model->cache()->Resize(4 * tiles * tile_bytes_), absl::OkStatus());
  for (int32_t layer = 0; layer < 3; ++layer) {
    Ask(*model, layer, 5);
    held_->LetGo();
  }
  EXPECT_EQ(answers_, 7);
  EXPECT_EQ(model->cache()->stats().waiting, 0);  // all three at once
  kept_.clear();
}

TEST_F(HeldTest, WhatIsForeseenWhileTheCacheShrinksDoesNotHoldItUp) {
  Pack(testing::StreamedConfig());
  keep_ = true;
  const int64_t tiles = tiles_per_expert();
  const auto model = OpenHeld(4 * tiles);
  for (int32_t layer = 0; layer < 3; ++layer) Ask(*model, layer, 3);
  held_->LetGo();
  ASSERT_EQ(answers_, 3);
  auto shrinking =
      std::async(std::launch::async, [&] { return model->cache()->Resize(2 * tiles * tile_bytes_); });
  while (model->cache()->bytes() != 2 * tiles * tile_bytes_) std::this_thread::yield();
  const ExpertId used(3);  // its tiles of the last layer lie beyond the new size
  model->experts().ReadAhead(RequesterId(), LayerId(2), {&used, 1}, Foresight::kKnown);
  kept_.clear();
  EXPECT_EQ(shrinking.wait_for(std::chrono::seconds(20)), std::future_status::ready);
  model->cache()->Forget();  // ends what is foreseen, and so the wait if there is one
  EXPECT_EQ(shrinking.get(), absl::OkStatus());
}

TEST_F(HeldTest, ATileThatIsBeingReadIntoWhatIsTakenAwayArrivesFirst) {
  Pack(testing::StreamedConfig());
  const int64_t tiles = tiles_per_expert();
  const auto model = OpenHeld(4 * tiles);
  for (int32_t layer = 0; layer < 3; ++layer) Ask(*model, layer, 3);
  std::thread shrinking(
      [&] { EXPECT_EQ(model->cache()->Resize(2 * tiles * tile_bytes_), absl::OkStatus()); });
  while (model->cache()->bytes() != 2 * tiles * tile_bytes_) std::this_thread::yield();
  EXPECT_EQ(answers_, 0);
  held_->LetGo();
  EXPECT_EQ(answers_, 3);
  shrinking.join();
}

TEST_F(HeldTest, LessThanTwoExpertsIsRefused) {
  Pack(testing::StreamedConfig());
  const auto model = OpenHeld(4 * tiles_per_expert());
  const absl::Status refused = model->cache()->Resize(2 * tiles_per_expert() * tile_bytes_ - 1);
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()),
              ::testing::HasSubstr(absl::StrCat("the least is ", 2 * tiles_per_expert() * tile_bytes_)));
  EXPECT_EQ(model->cache()->bytes(), 4 * tiles_per_expert() * tile_bytes_);
}

TEST_F(HeldTest, RequestsWaitForSlotsInOrderAndAllAreServed) {
  Pack(testing::StreamedConfig());
  keep_ = true;
  const auto model = OpenHeld(2 * tiles_per_expert());
  for (int32_t layer = 0; layer < 3; ++layer) Ask(*model, layer, 0);  // the third finds no room
  held_->LetGo();
  ASSERT_EQ(answers_, 2);
  EXPECT_EQ(held_->urgent(), 0u);
  EXPECT_EQ(model->cache()->stats().queued, 1);
  kept_.erase(kept_.begin());
  EXPECT_EQ(held_->urgent(), static_cast<size_t>(tiles_per_expert()));
  held_->LetGo();
  ASSERT_EQ(answers_, 3);
  kept_.clear();  // before the cache that they are in
  EXPECT_TRUE(errors_.empty());
}

}  // namespace
}  // namespace omni
