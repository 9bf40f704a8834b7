#include "store/streamed_model.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "store/tile.h"
#include "tests/store/model_digest.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/faulty_reads.h"
#include "tests/testing/random_model.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Random;
using testing::TempDir;

// d = 64: 4 layers, 3 of them with 8 experts of 2 tiles; 2 regions.
ModelConfig Config() {
  ModelConfig config = testing::SmallConfig();
  config.f = 320;  // 5 tiles, the last one an expert's own
  return config;
}

int64_t TileBytes(const ModelConfig& config, int64_t alignment = 64) {
  return PackHeader::For(TileLayout(config.d).payload(), alignment).stride;
}

class StreamedTest : public ::testing::Test {
 protected:
  void Pack(const ModelConfig& config, const PackOptions& options = {}) {
    config_ = config;
    tile_bytes_ = TileBytes(config, options.tile_alignment > 0 ? options.tile_alignment : 64);
    ASSERT_TRUE(testing::WriteRandomCheckpoint(temp_ / "c", config, 3).ok());
    const absl::Status packed = PackModel(temp_ / "c", temp_ / "m", options);
    ASSERT_TRUE(packed.ok()) << packed;
  }
  // A cache of so many tiles.
  std::unique_ptr<ModelDir> Open(int64_t tiles, OpenOptions options = {}) {
    options.cache_bytes = tiles * tile_bytes_;
    auto model = ModelDir::Open(temp_ / "m", options);
    if (!model.ok()) {
      ADD_FAILURE() << model.status();
      return nullptr;
    }
    return *std::move(model);
  }
  std::unique_ptr<ModelDir> OpenResident() { return *ModelDir::Open(temp_ / "m"); }
  int64_t tiles_per_expert() const { return TilesPerExpert(config_); }

  TempDir temp_;
  ModelConfig config_;
  int64_t tile_bytes_ = 0;
};

::testing::AssertionResult SameTiles(const ModelConfig& config, const ExpertTiles& a, const ExpertTiles& b) {
  if (a.tiles.size() != b.tiles.size()) return ::testing::AssertionFailure() << "another number of tiles";
  for (size_t t = 0; t < a.tiles.size(); ++t) {
    if (std::memcmp(a.tiles[t], b.tiles[t], static_cast<size_t>(TileLayout(config.d).payload())) != 0)
      return ::testing::AssertionFailure() << "tile " << t << " differs";
  }
  return ::testing::AssertionSuccess();
}

// Random experts one after another, each compared with the resident model's.
void ExpectSameExperts(const ModelConfig& config, ModelDir& streamed, ModelDir& resident, uint64_t seed,
                       int rounds) {
  Random random(seed);
  for (int i = 0; i < rounds; ++i) {
    const LayerId layer(static_cast<int32_t>(random.Below(config.layers)));
    if (config.IsAttention(layer.value)) continue;
    const ExpertId expert(static_cast<int32_t>(random.Below(config.num_experts())));
    const auto want = resident.Acquire(layer, expert);
    const auto got = streamed.Acquire(layer, expert);
    ASSERT_TRUE(want.ok() && got.ok()) << got.status();
    ASSERT_TRUE(SameTiles(config, *got, *want)) << "layer " << layer.value << " expert " << expert.value;
  }
}

struct Shape {
  std::string name;
  PackOptions pack;
  PolicyKind policy = PolicyKind::kTorus;
  ReadMethod reads = ReadMethod::kPread;
  bool scattered = false;
};

class StreamedShapes : public StreamedTest, public ::testing::WithParamInterface<Shape> {};

INSTANTIATE_TEST_SUITE_P(
    All, StreamedShapes,
    ::testing::Values(Shape{"Torus", {}}, Shape{"Decayed", {}, PolicyKind::kDecayed},
                      Shape{"Lru", {}, PolicyKind::kLru}, Shape{"Whole", {.whole = true}},
                      Shape{"Auto", {}, PolicyKind::kTorus, ReadMethod::kAuto},
                      Shape{"Direct", {.tile_alignment = 4096}, PolicyKind::kTorus, ReadMethod::kAuto},
                      Shape{"DirectPread", {.tile_alignment = 4096}},
                      Shape{"ManyPacks", {.max_pack_bytes = 1}},
                      Shape{"Scattered", {}, PolicyKind::kTorus, ReadMethod::kPread, true}),
    [](const auto& info) { return info.param.name; });

TEST_P(StreamedShapes, GivesTheBytesOfTheResidentModelWhateverFits) {
  const Shape& shape = GetParam();
  ModelConfig config = Config();
  if (shape.scattered) config.own_neurons = 0;  // all tied: what differs is changed below
  Pack(config, shape.pack);
  const auto resident = OpenResident();
  OpenOptions options;
  options.cache.policy = shape.policy;
  options.cache.reads.method = shape.reads;
  for (const int64_t experts : {1, 2, 3, 100}) {
    const auto streamed = Open(experts * tiles_per_expert(), options);
    ASSERT_NE(streamed, nullptr);
    EXPECT_FALSE(streamed->resident());
    EXPECT_EQ(testing::ModelContent(*streamed), testing::ModelContent(*resident));
    ExpectSameExperts(config, *streamed, *resident, 7, 300);
    const CacheStats stats = *streamed->cache_stats();
    EXPECT_EQ(stats.failed, 0);
    EXPECT_GT(stats.misses, 0);
    if (experts == 100) {
      EXPECT_EQ(stats.evicted, 0);
      EXPECT_EQ(stats.misses, resident->Stats().stored_tiles + resident->Stats().inline_tiles);
    }
  }
}

TEST_F(StreamedTest, ReadsOnlyTheTilesInWhichAnExpertDiffersFromOneThatIsThere) {
  Pack(Config());
  const auto model = Open(1000);
  const LayerId layer(0);
  const ExpertId first = config_.ExpertOf(RegionId(0), 0), second = config_.ExpertOf(RegionId(0), 1);
  ASSERT_TRUE(model->Acquire(layer, first).ok());
  EXPECT_EQ(model->cache_stats()->misses, tiles_per_expert());
  ASSERT_TRUE(model->Acquire(layer, second).ok());
  EXPECT_EQ(model->cache_stats()->misses, tiles_per_expert() + 1);
  EXPECT_EQ(model->cache_stats()->hits, tiles_per_expert() - 1);
  ASSERT_TRUE(model->Acquire(layer, first).ok());
  EXPECT_EQ(model->cache_stats()->ready_requests, 1);
  model->ForgetExperts();
  ASSERT_TRUE(model->Acquire(layer, first).ok());
  EXPECT_EQ(model->cache_stats()->misses, 2 * tiles_per_expert() + 1);
}

TEST_F(StreamedTest, ThreadsShareTheLeastCacheWithoutWaitingForEver) {
  Pack(Config());
  const auto resident = OpenResident();
  for (const bool expect : {false, true}) {
    const auto streamed = Open(tiles_per_expert() + (expect ? 3 : 0));
    std::vector<std::jthread> threads;
    for (uint64_t i = 0; i < 6; ++i) {
      threads.emplace_back([&, i] { ExpectSameExperts(config_, *streamed, *resident, 100 + i, 150); });
    }
    if (expect) {
      Random random(1);
      for (int i = 0; i < 200; ++i) {
        const ExpertId guess[2] = {ExpertId(static_cast<int32_t>(random.Below(8))),
                                   ExpertId(static_cast<int32_t>(random.Below(8)))};
        streamed->Expect(LayerId(static_cast<int32_t>(random.Below(3))), guess);
      }
    }
    threads.clear();
    EXPECT_EQ(streamed->cache_stats()->failed, 0);
  }
}

TEST_F(StreamedTest, ABudgetThatHoldsNoTwoExpertsIsRefusedWithTheLeastThatWorks) {
  Pack(Config());
  OpenOptions options;
  options.ram_bytes = 1 << 20;
  const auto model = ModelDir::Open(temp_ / "m", options);
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(model.status().message(), HasSubstr(temp_ / "m"));
}

TEST_F(StreamedTest, ThereIsNoExpertOutsideTheModel) {
  Pack(Config());
  const auto model = Open(100);
  for (const auto& [layer, expert] : {std::pair{3, 0}, {4, 0}, {-1, 0}, {0, 8}, {0, -1}}) {
    const auto tiles = model->Acquire(LayerId(layer), ExpertId(expert));
    EXPECT_EQ(tiles.status().code(), absl::StatusCode::kInvalidArgument) << layer << " " << expert;
  }
}

// Flips one bit of the first pack file.
void Flip(const std::string& path, int64_t byte) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(byte);
  const char old = static_cast<char>(file.get());
  file.seekp(byte);
  file.put(static_cast<char>(old ^ 4));
}

TEST_F(StreamedTest, ADamagedTileIsNamedAndNeverUsedAndTheOthersAre) {
  Pack(Config());
  const std::string pack = temp_ / "m/packs/tiles-000.bin";
  const auto model = Open(3 * tiles_per_expert());
  const auto resident = OpenResident();
  const int64_t stride = TileBytes(config_), payload = TileLayout(config_.d).payload();
  Random random(5);
  const int64_t tiles = (static_cast<int64_t>(std::filesystem::file_size(pack)) - 64) / stride;
  for (int round = 0; round < 40; ++round) {
    const int64_t at = 64 + random.Below(tiles) * stride + random.Below(payload);
    Flip(pack, at);
    model->ForgetExperts();
    int damaged = 0;
    for (int32_t layer = 0; layer < 3; ++layer) {
      for (int32_t e = 0; e < 8; ++e) {
        const auto got = model->Acquire(LayerId(layer), ExpertId(e));
        if (got.ok()) {
          ASSERT_TRUE(SameTiles(config_, *got, *resident->Acquire(LayerId(layer), ExpertId(e))));
          continue;
        }
        ++damaged;
        EXPECT_EQ(got.status().code(), absl::StatusCode::kDataLoss);
        EXPECT_THAT(got.status().message(),
                    AllOf(HasSubstr(pack), HasSubstr("tile "), HasSubstr("checksum"),
                          HasSubstr(absl::StrCat("of expert ", e, ", layer ", layer))));
      }
    }
    EXPECT_GT(damaged, 0) << "byte " << at;
    Flip(pack, at);  // mended: the next request reads it again
    model->ForgetExperts();
    ExpectSameExperts(config_, *model, *resident, 9, 30);
  }
}

TEST_F(StreamedTest, APackThatIsGoneOrShorterIsAnErrorThatNamesIt) {
  Pack(Config());
  const std::string pack = temp_ / "m/packs/tiles-000.bin";
  {
    const auto model = Open(3 * tiles_per_expert());
    std::filesystem::resize_file(pack, std::filesystem::file_size(pack) / 2);
    int failed = 0;
    for (int32_t e = 0; e < 8; ++e) {
      const auto got = model->Acquire(LayerId(2), ExpertId(e));
      if (got.ok()) continue;
      ++failed;
      EXPECT_THAT(got.status().message(), AllOf(HasSubstr(pack), HasSubstr("layer 2")));
    }
    EXPECT_GT(failed, 0);
  }
  OpenOptions options;
  options.cache_bytes = 1 << 20;
  EXPECT_THAT(ModelDir::Open(temp_ / "m", options).status().message(), HasSubstr(pack));
  std::filesystem::remove(pack);
  EXPECT_THAT(ModelDir::Open(temp_ / "m", options).status().message(), HasSubstr(pack));
}

TEST_F(StreamedTest, WhatIsRequestedIsCheckedByItsUserAndADamagedTileIsReadAgain) {
  Pack(Config());
  const auto resident = OpenResident();
  std::atomic<int> reads{0};
  OpenOptions options;
  options.cache.open_reads = [&](std::vector<std::string> paths, const ReadQueueOptions& queue,
                                 ReadQueue::Done done) {
    const auto rule = [&](const ReadRequest&) -> testing::Fault {
      return {reads++ == 2 ? testing::Fault::Kind::kFlipBit : testing::Fault::Kind::kNone, 1234};
    };
    return testing::OpenFaultyReads(std::move(paths), queue, rule, std::move(done));
  };
  const auto model = Open(3 * tiles_per_expert(), options);
  const LayerId layer(1);
  const ExpertId expert(6);
  const auto request = [&] {
    std::promise<absl::StatusOr<ExpertTiles>> promise;
    model->Request(layer, expert,
                   [&](absl::StatusOr<ExpertTiles> tiles) { promise.set_value(std::move(tiles)); });
    return promise.get_future().get();
  };
  {
    const absl::StatusOr<ExpertTiles> tiles = request();
    ASSERT_TRUE(tiles.ok()) << tiles.status();
    ASSERT_TRUE(tiles->check);
    for (int again : {0, 1}) {
      int damaged = 0;
      for (int64_t t = 0; t < tiles_per_expert(); ++t) {
        const absl::Status status = tiles->check(t);
        if (status.ok()) continue;
        ++damaged;
        EXPECT_THAT(status.message(), AllOf(HasSubstr("packs/"), HasSubstr("expert 6"), HasSubstr("layer 1"),
                                            HasSubstr("checksum")));
      }
      EXPECT_EQ(damaged, 1) << again;
    }
    EXPECT_EQ(model->cache_stats()->failed, 1);
  }
  EXPECT_EQ(reads, tiles_per_expert());
  const absl::StatusOr<ExpertTiles> tiles = request();
  ASSERT_TRUE(tiles.ok()) << tiles.status();
  EXPECT_EQ(reads, tiles_per_expert() + 1);  // the damaged one alone
  for (int64_t t = 0; t < tiles_per_expert(); ++t) EXPECT_TRUE(tiles->check(t).ok());
  EXPECT_TRUE(SameTiles(config_, *tiles, *resident->Acquire(layer, expert)));
  EXPECT_FALSE(request()->check);  // all of them are known to be right
}

TEST_F(StreamedTest, ReadsThatGoWrongAreNamedAndTheNextRequestTriesAgain) {
  Pack(Config());
  const auto resident = OpenResident();
  for (const testing::Fault::Kind kind :
       {testing::Fault::Kind::kFlipBit, testing::Fault::Kind::kShorten, testing::Fault::Kind::kFail}) {
    std::atomic<bool> broken{true};
    std::atomic<int> reads{0};
    OpenOptions options;
    options.cache.open_reads = [&](std::vector<std::string> paths, const ReadQueueOptions& queue,
                                   ReadQueue::Done done) {
      const auto rule = [&](const ReadRequest& request) -> testing::Fault {
        const int number = reads++;
        if (!broken || number % 3 != 0) return {};
        return {kind, (number * 977) % request.needed};
      };
      return testing::OpenFaultyReads(std::move(paths), queue, rule, std::move(done));
    };
    const auto model = Open(3 * tiles_per_expert(), options);
    int failed = 0;
    for (int round = 0; round < 3; ++round) {
      model->ForgetExperts();
      for (int32_t e = 0; e < 8; ++e) {
        const auto got = model->Acquire(LayerId(1), ExpertId(e));
        if (got.ok()) {
          EXPECT_TRUE(SameTiles(config_, *got, *resident->Acquire(LayerId(1), ExpertId(e))));
          continue;
        }
        ++failed;
        EXPECT_THAT(got.status().message(), AllOf(HasSubstr("tiles-000.bin"), HasSubstr("tile "),
                                                  HasSubstr(absl::StrCat("of expert ", e, ", layer 1"))));
      }
    }
    EXPECT_GT(failed, 5);
    EXPECT_GE(model->cache_stats()->failed, failed);
    broken = false;
    ExpectSameExperts(config_, *model, *resident, 4, 100);
  }
}

// A queue in which reads happen when the test says so.
class HeldReads : public ReadQueue {
 public:
  explicit HeldReads(std::unique_ptr<ReadQueue> inner) : inner_(std::move(inner)) {}
  void Submit(std::span<const ReadRequest> requests, bool urgent) override {
    std::lock_guard lock(mutex_);
    for (const ReadRequest& request : requests) (urgent ? urgent_ : other_).push_back(request);
  }
  void Promote(uint64_t tag) override {
    std::lock_guard lock(mutex_);
    promoted_.push_back(tag);
  }
  ReadMethod method() const override { return inner_->method(); }
  std::string description() const override { return "held"; }
  bool direct(int32_t file) const override { return inner_->direct(file); }
  Stats stats() const override { return inner_->stats(); }

  void LetGo() {
    std::deque<ReadRequest> all;
    {
      std::lock_guard lock(mutex_);
      all = std::exchange(urgent_, {});
      all.insert(all.end(), other_.begin(), other_.end());
      other_.clear();
    }
    for (const ReadRequest& request : all) inner_->Submit({&request, 1}, true);
  }
  size_t urgent() const {
    std::lock_guard lock(mutex_);
    return urgent_.size();
  }
  size_t other() const {
    std::lock_guard lock(mutex_);
    return other_.size();
  }
  size_t promoted() const {
    std::lock_guard lock(mutex_);
    return promoted_.size();
  }

 private:
  std::unique_ptr<ReadQueue> inner_;
  mutable std::mutex mutex_;
  std::deque<ReadRequest> urgent_, other_;
  std::vector<uint64_t> promoted_;
};

class HeldTest : public StreamedTest {
 protected:
  std::unique_ptr<ModelDir> OpenHeld(int64_t tiles) {
    OpenOptions options;
    options.cache.open_reads = [this](std::vector<std::string> paths, const ReadQueueOptions& reads,
                                      ReadQueue::Done done) -> absl::StatusOr<std::unique_ptr<ReadQueue>> {
      auto inner = ReadQueue::Open(std::move(paths), reads, std::move(done));
      if (!inner.ok()) return inner.status();
      auto held = std::make_unique<HeldReads>(*std::move(inner));
      held_ = held.get();
      return held;
    };
    return Open(tiles, options);
  }
  // Asks and counts the answers.
  void Ask(ModelDir& model, int32_t layer, int32_t expert) {
    model.Request(LayerId(layer), ExpertId(expert), [this](absl::StatusOr<ExpertTiles> tiles) {
      std::lock_guard lock(mutex_);
      if (!tiles.ok()) errors_.push_back(tiles.status());
      ++answers_;
      if (keep_) kept_.push_back(*std::move(tiles));
    });
  }
  int answers() {
    std::lock_guard lock(mutex_);
    return answers_;
  }
  bool WaitForAnswers(int n) {
    for (int i = 0; i < 10'000 && answers() < n; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return answers() == n;
  }

  HeldReads* held_ = nullptr;
  std::mutex mutex_;
  int answers_ = 0;
  size_t asked_ = 0;
  bool keep_ = false;
  std::vector<absl::Status> errors_;
  std::vector<ExpertTiles> kept_;
};

TEST_F(HeldTest, AGuessIsReadBehindWhatIsAskedForAndJoinedWhenItWasRight) {
  Pack(Config());
  const auto model = OpenHeld(1000);
  const auto tiles = static_cast<size_t>(tiles_per_expert());
  const ExpertId guess(5);
  model->Expect(LayerId(1), {&guess, 1});
  EXPECT_EQ(held_->other(), tiles);
  Ask(*model, 0, 0);
  EXPECT_EQ(held_->urgent(), tiles);
  Ask(*model, 1, 5);
  EXPECT_EQ(held_->urgent(), tiles);  // no tile is read twice
  EXPECT_EQ(held_->promoted(), tiles);
  EXPECT_EQ(answers(), 0);
  held_->LetGo();
  ASSERT_TRUE(WaitForAnswers(2));
  const CacheStats stats = *model->cache_stats();
  EXPECT_EQ(stats.guessed, tiles_per_expert());
  EXPECT_EQ(stats.guessed_used, tiles_per_expert());
  EXPECT_EQ(stats.joined, tiles_per_expert());
  EXPECT_EQ(stats.misses, tiles_per_expert());
}

TEST_F(HeldTest, ThePartThatIsThereIsToldAtOnceAndIsNotGivenUpMeanwhile) {
  Pack(Config());
  const auto model = OpenHeld(2 * tiles_per_expert());
  const auto resident = OpenResident();
  const LayerId layer(0);
  const ExpertId first = config_.ExpertOf(RegionId(0), 0), second = config_.ExpertOf(RegionId(0), 1);
  std::vector<ExpertTiles> parts;
  const auto ask = [&](LayerId l, ExpertId e) {
    model->Request(
        l, e,
        [this](absl::StatusOr<ExpertTiles> tiles) {
          EXPECT_TRUE(tiles.ok()) << tiles.status();
          std::lock_guard lock(mutex_);
          ++answers_;
        },
        [&](ExpertTiles part) {
          std::lock_guard lock(mutex_);
          parts.push_back(std::move(part));
        });
  };
  ask(layer, first);
  EXPECT_TRUE(parts.empty());  // nothing of it is there
  held_->LetGo();
  ASSERT_TRUE(WaitForAnswers(1));
  ask(layer, first);
  EXPECT_TRUE(parts.empty());  // all of it is there
  ask(layer, second);
  ASSERT_EQ(parts.size(), 1u);
  const ExpertTiles want = *resident->Acquire(layer, second);
  int absent = 0;
  for (size_t t = 0; t < want.tiles.size(); ++t) absent += parts[0].tiles[t] == nullptr;
  EXPECT_EQ(absent, 1);
  held_->LetGo();
  ASSERT_TRUE(WaitForAnswers(3));
  // What a part holds stays while other experts come and go.
  for (const int32_t expert : {2, 5, 7}) {
    ask(LayerId(1), ExpertId(expert));
    held_->LetGo();
  }
  const auto let_go =
      [&] {  // without the lock: others may be told of their parts meanwhile, by this thread too
        std::vector<ExpertTiles> old;
        {
          std::lock_guard lock(mutex_);
          old.swap(parts);
        }
      };
  std::vector<ExpertTiles> held;
  {
    std::lock_guard lock(mutex_);
    held.push_back(parts[0]);
  }
  let_go();
  for (size_t t = 0; t < want.tiles.size(); ++t) {
    if (held[0].tiles[t] == nullptr) continue;
    EXPECT_EQ(
        std::memcmp(held[0].tiles[t], want.tiles[t], static_cast<size_t>(TileLayout(config_.d).payload())),
        0);
  }
  held.clear();
  for (int i = 0; i < 100 && answers() < 6; ++i) {
    let_go();
    held_->LetGo();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_TRUE(WaitForAnswers(6));
}

TEST_F(HeldTest, TilesAreHandedOverAsTheyCome) {
  ModelConfig config = Config();
  config.f = 36 * kTileNeurons;
  Pack(config);
  const auto model = OpenHeld(2 * tiles_per_expert());
  const auto resident = OpenResident();
  const ExpertTiles want = *resident->Acquire(LayerId(0), ExpertId(0));
  std::vector<int> handed(want.tiles.size());
  int parts = 0;
  model->Request(
      LayerId(0), ExpertId(0),
      [&](absl::StatusOr<ExpertTiles> all) {
        ASSERT_TRUE(all.ok()) << all.status();
        EXPECT_TRUE(SameTiles(config, *all, want));
        std::lock_guard lock(mutex_);
        ++answers_;
      },
      [&](const ExpertTiles& part) {
        std::lock_guard lock(mutex_);
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
  ASSERT_TRUE(WaitForAnswers(1));
  EXPECT_EQ(parts, 2);
  EXPECT_EQ(std::accumulate(handed.begin(), handed.end(), 0), 32);
  EXPECT_EQ(*std::max_element(handed.begin(), handed.end()), 1);
}

TEST_F(HeldTest, WhatIsExpectedStaysUntilItsLayerIsOver) {
  Pack(Config());
  const auto model = OpenHeld(3 * tiles_per_expert());
  const ExpertId guess(0);
  model->Expect(LayerId(1), {&guess, 1});
  held_->LetGo();
  while (model->cache_stats()->read_bytes < tiles_per_expert() * TileBytes(config_))
    std::this_thread::yield();
  // Experts of another region fill the cache again and again; the expected one is not given up for them.
  for (int32_t expert : {0, 2, 5, 7, 0, 2, 5, 7}) {
    Ask(*model, 0, expert);
    held_->LetGo();
    ASSERT_TRUE(WaitForAnswers(static_cast<int>(++asked_)));
  }
  Ask(*model, 1, 0);
  EXPECT_TRUE(WaitForAnswers(static_cast<int>(++asked_)));
  EXPECT_GE(model->cache_stats()->ready_requests, 1);
}

TEST_F(HeldTest, RequestsWaitForSlotsInOrderAndAllAreServed) {
  Pack(Config());
  keep_ = true;
  const auto model = OpenHeld(2 * tiles_per_expert());
  for (int32_t layer = 0; layer < 3; ++layer) Ask(*model, layer, 0);  // the third finds no room
  held_->LetGo();
  ASSERT_TRUE(WaitForAnswers(2));
  EXPECT_EQ(held_->urgent(), 0u);
  EXPECT_EQ(model->cache_stats()->queued, 1);
  {
    std::lock_guard lock(mutex_);
    kept_.erase(kept_.begin());
  }
  EXPECT_EQ(held_->urgent(), static_cast<size_t>(tiles_per_expert()));
  held_->LetGo();
  ASSERT_TRUE(WaitForAnswers(3));
  std::lock_guard lock(mutex_);
  kept_.clear();
  EXPECT_TRUE(errors_.empty());
}

}  // namespace
}  // namespace omni
