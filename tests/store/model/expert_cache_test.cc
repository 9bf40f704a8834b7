#include "store/model/expert_cache.h"
#include "store/pack/pack.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "store/format/tile.h"
#include "tests/store/model/model_digest.h"
#include "tests/store/model/streamed_fixture.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/random_model.h"
#include "tests/testing/recording_log.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tile_readers.h"

namespace omni {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Random;
using testing::SameTiles;
using testing::StreamedTest;
using testing::TileBytes;

// Random experts one after another, each compared with the resident model's.
void ExpectSameExperts(const ModelConfig& config, const Model& streamed, const Model& resident, uint64_t seed,
                       int rounds) {
  Random random(seed);
  for (int i = 0; i < rounds; ++i) {
    const LayerId layer(static_cast<int32_t>(random.Below(config.layers)));
    if (config.IsAttention(layer.value)) continue;
    const ExpertId expert(static_cast<int32_t>(random.Below(config.num_experts())));
    const auto want = resident.experts().Acquire(layer, expert);
    const auto got = streamed.experts().Acquire(layer, expert);
    ASSERT_TRUE(want.ok() && got.ok()) << got.status();
    ASSERT_TRUE(SameTiles(config, *got, *want)) << "layer " << layer.value << " expert " << expert.value;
  }
}

struct Shape {
  std::string name;
  PackOptions pack;
  PolicyKind policy = PolicyKind::kTorus;
  ReadMethod reads = ReadMethod::kPread;
  bool direct = false;  // past the page cache
  bool scattered = false;
};

class StreamedShapes : public StreamedTest, public ::testing::WithParamInterface<Shape> {
 protected:
  static const char* MethodName(ReadMethod method) {
    return method == ReadMethod::kUring ? "io_uring, " : "threads of pread, ";
  }
  // Why this machine does not read as the shape wants it; empty: it does.
  std::string Lacking(const Shape& shape) const {
    ReadQueueOptions options;
    options.method = shape.reads;
    const absl::StatusOr<std::unique_ptr<ReadQueue>> queue =
        ReadQueue::Open({temp_ / "m/packs/tiles-000.bin"}, options, [](uint64_t, const absl::Status&) {});
    if (!queue.ok()) return queue.status().ToString();
    return shape.direct && !(*queue)->direct(0) ? "the file system of the packs refuses O_DIRECT" : "";
  }
};

INSTANTIATE_TEST_SUITE_P(
    All, StreamedShapes,
    ::testing::Values(
        Shape{"Torus", {}}, Shape{"Decayed", {}, PolicyKind::kDecayed}, Shape{"Lru", {}, PolicyKind::kLru},
        Shape{"Whole", {.whole = true}}, Shape{"Uring", {}, PolicyKind::kTorus, ReadMethod::kUring},
        Shape{"DirectUring", {.tile_alignment = 4096}, PolicyKind::kTorus, ReadMethod::kUring, true},
        Shape{"DirectPread", {.tile_alignment = 4096}, PolicyKind::kTorus, ReadMethod::kPread, true},
        Shape{"ManyPacks", {.max_pack_bytes = 1}},
        Shape{"Scattered", {}, PolicyKind::kTorus, ReadMethod::kPread, false, true}),
    [](const auto& info) { return info.param.name; });

TEST_P(StreamedShapes, GivesTheBytesOfTheResidentModelWhateverFits) {
  const Shape& shape = GetParam();
  const ModelConfig config = shape.scattered ? testing::ShortConfig() : testing::StreamedConfig();
  if (shape.scattered) {
    Pack(testing::NearlyEqualExperts(config), shape.pack);
  } else {
    Pack(config, shape.pack);
  }
  const Model resident = OpenResident();
  if (shape.scattered) {
    EXPECT_GT(resident.stats().inline_tiles, 0);
  }
  if (const std::string lacking = Lacking(shape); !lacking.empty()) GTEST_SKIP() << lacking;
  OpenOptions options;
  options.cache.policy = shape.policy;
  options.reads.method = shape.reads;
  for (const int64_t experts : {1, 2, 3, 100}) {
    const auto streamed = Open(experts * tiles_per_expert(), options);
    ASSERT_TRUE(streamed.has_value());
    EXPECT_FALSE(streamed->experts().resident());
    EXPECT_EQ(testing::ModelContent(*streamed), testing::ModelContent(resident));
    ExpectSameExperts(config, *streamed, resident, 7, 300);
    const CacheStats stats = streamed->cache()->stats();
    EXPECT_EQ(stats.failed, 0);
    EXPECT_GT(stats.misses, 0);
    EXPECT_THAT(streamed->cache()->description(), HasSubstr(MethodName(shape.reads)));
    if (shape.direct) {
      EXPECT_THAT(streamed->cache()->description(), HasSubstr(", O_DIRECT, "));
    }
    if (experts == 100) {
      EXPECT_EQ(stats.evicted, 0);
      EXPECT_EQ(stats.misses, resident.stats().stored_tiles + resident.stats().inline_tiles);
    }
  }
}

TEST_F(StreamedTest, ReadsOnlyTheTilesInWhichAnExpertDiffersFromOneThatIsThere) {
  Pack(testing::StreamedConfig());
  const auto model = Open(1000);
  const LayerId layer(0);
  const ExpertId first = config_.ExpertOf(RegionId(0), 0), second = config_.ExpertOf(RegionId(0), 1);
  ASSERT_TRUE(model->experts().Acquire(layer, first).ok());
  EXPECT_EQ(model->cache()->stats().misses, tiles_per_expert());
  ASSERT_TRUE(model->experts().Acquire(layer, second).ok());
  EXPECT_EQ(model->cache()->stats().misses, tiles_per_expert() + 1);
  EXPECT_EQ(model->cache()->stats().hits, tiles_per_expert() - 1);
  ASSERT_TRUE(model->experts().Acquire(layer, first).ok());
  EXPECT_EQ(model->cache()->stats().ready_requests, 1);
  model->cache()->Forget();
  ASSERT_TRUE(model->experts().Acquire(layer, first).ok());
  EXPECT_EQ(model->cache()->stats().misses, 2 * tiles_per_expert() + 1);
}

TEST_F(StreamedTest, ThreadsShareTheLeastCacheWithoutWaitingForEver) {
  Pack(testing::StreamedConfig());
  const Model resident = OpenResident();
  for (const bool expect : {false, true}) {
    const auto streamed = Open(tiles_per_expert() + (expect ? 3 : 0));
    std::vector<std::jthread> threads;
    for (uint64_t i = 0; i < 6; ++i) {
      threads.emplace_back([&, i] { ExpectSameExperts(config_, *streamed, resident, 100 + i, 150); });
    }
    if (expect) {
      Random random(1);
      for (int i = 0; i < 200; ++i) {
        const ExpertId guess[2] = {ExpertId(static_cast<int32_t>(random.Below(8))),
                                   ExpertId(static_cast<int32_t>(random.Below(8)))};
        streamed->experts().ReadAhead(RequesterId(), LayerId(static_cast<int32_t>(random.Below(3))), guess,
                                      Foresight::kGuess);
      }
    }
    threads.clear();
    EXPECT_EQ(streamed->cache()->stats().failed, 0);
  }
}

TEST_F(StreamedTest, ABudgetThatHoldsNoTwoExpertsIsRefusedWithTheLeastThatWorks) {
  Pack(testing::StreamedConfig());
  OpenOptions options;
  options.residency = Residency::kStreamed;
  options.ram_bytes = 1 << 20;
  const auto model = OpenModel(temp_ / "m", options);
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(model.status().message(), HasSubstr(temp_ / "m"));
}

TEST_F(StreamedTest, ThereIsNoExpertOutsideTheModel) {
  Pack(testing::StreamedConfig());
  const auto model = Open(100);
  for (const auto& [layer, expert] : {std::pair{3, 0}, {4, 0}, {-1, 0}, {0, 8}, {0, -1}}) {
    const auto tiles = model->experts().Acquire(LayerId(layer), ExpertId(expert));
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
  Pack(testing::StreamedConfig());
  const std::string pack = temp_ / "m/packs/tiles-000.bin";
  const auto model = Open(3 * tiles_per_expert());
  const Model resident = OpenResident();
  const int64_t stride = TileBytes(config_), payload = TileLayout(config_.d).payload();
  Random random(5);
  const int64_t tiles = (static_cast<int64_t>(std::filesystem::file_size(pack)) - 64) / stride;
  for (int round = 0; round < 40; ++round) {
    const int64_t at = 64 + random.Below(tiles) * stride + random.Below(payload);
    Flip(pack, at);
    model->cache()->Forget();
    int damaged = 0;
    for (int32_t layer = 0; layer < 3; ++layer) {
      for (int32_t e = 0; e < 8; ++e) {
        const auto got = model->experts().Acquire(LayerId(layer), ExpertId(e));
        if (got.ok()) {
          ASSERT_TRUE(SameTiles(config_, *got, *resident.experts().Acquire(LayerId(layer), ExpertId(e))));
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
    model->cache()->Forget();
    ExpectSameExperts(config_, *model, resident, 9, 30);
  }
}

TEST_F(StreamedTest, APackThatIsGoneOrShorterIsAnErrorThatNamesIt) {
  Pack(testing::StreamedConfig());
  const std::string pack = temp_ / "m/packs/tiles-000.bin";
  {
    const auto model = Open(3 * tiles_per_expert());
    std::filesystem::resize_file(pack, std::filesystem::file_size(pack) / 2);
    int failed = 0;
    for (int32_t e = 0; e < 8; ++e) {
      const auto got = model->experts().Acquire(LayerId(2), ExpertId(e));
      if (got.ok()) continue;
      ++failed;
      EXPECT_THAT(got.status().message(), AllOf(HasSubstr(pack), HasSubstr("layer 2")));
    }
    EXPECT_GT(failed, 0);
  }
  OpenOptions options;
  options.residency = Residency::kStreamed;
  options.cache_bytes = 1 << 20;
  EXPECT_THAT(OpenModel(temp_ / "m", options).status().message(), HasSubstr(pack));
  std::filesystem::remove(pack);
  EXPECT_THAT(OpenModel(temp_ / "m", options).status().message(), HasSubstr(pack));
}

class SpoiltTest : public StreamedTest {
 protected:
  std::unique_ptr<TileReader> Spoilt(testing::TileFaultRule rule) {
    return std::make_unique<testing::SpoiltTiles>(MakePackReader(), temp_ / "m/packs/tiles-000.bin",
                                                  payload(), std::move(rule));
  }
};

TEST_F(SpoiltTest, WhatIsRequestedIsCheckedByItsUserAndADamagedTileIsReadAgain) {
  const testing::RecordingLog log;
  Pack(testing::StreamedConfig());
  const Model resident = OpenResident();
  std::atomic<int> reads{0};
  const auto rule = [&](const TileRead&) -> testing::Fault {
    return {reads++ == 2 ? testing::Fault::Kind::kFlipBit : testing::Fault::Kind::kNone, 1234};
  };
  const auto model = Open(3 * tiles_per_expert(), {}, Spoilt(rule));
  const LayerId layer(1);
  const ExpertId expert(6);
  const auto request = [&] {
    std::promise<absl::StatusOr<ExpertTiles>> promise;
    model->experts().Request(RequesterId(), layer, expert,
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
    EXPECT_EQ(model->cache()->stats().failed, 1);
    EXPECT_THAT(log.Messages("tile_failed"),
                ElementsAre(AllOf(HasSubstr("packs/tiles-000.bin: tile "), HasSubstr("layer 1 is not used"),
                                  HasSubstr("checksum"))));
  }
  EXPECT_EQ(reads, tiles_per_expert());
  const absl::StatusOr<ExpertTiles> tiles = request();
  ASSERT_TRUE(tiles.ok()) << tiles.status();
  EXPECT_EQ(reads, tiles_per_expert() + 1);  // the damaged one alone
  for (int64_t t = 0; t < tiles_per_expert(); ++t) EXPECT_TRUE(tiles->check(t).ok());
  EXPECT_TRUE(SameTiles(config_, *tiles, *resident.experts().Acquire(layer, expert)));
  EXPECT_FALSE(request()->check);  // all of them are known to be right
}

TEST_F(SpoiltTest, ReadsThatGoWrongAreNamedAndTheNextRequestTriesAgain) {
  Pack(testing::StreamedConfig());
  const Model resident = OpenResident();
  for (const testing::Fault::Kind kind :
       {testing::Fault::Kind::kFlipBit, testing::Fault::Kind::kShorten, testing::Fault::Kind::kFail}) {
    const testing::RecordingLog log;
    std::atomic<bool> broken{true};
    std::atomic<int> reads{0};
    const auto rule = [&](const TileRead&) -> testing::Fault {
      const int number = reads++;
      if (!broken || number % 3 != 0) return {};
      return {kind, (number * 977) % payload()};
    };
    const auto model = Open(3 * tiles_per_expert(), {}, Spoilt(rule));
    int failed = 0;
    for (int round = 0; round < 3; ++round) {
      model->cache()->Forget();
      for (int32_t e = 0; e < 8; ++e) {
        const auto got = model->experts().Acquire(LayerId(1), ExpertId(e));
        if (got.ok()) {
          EXPECT_TRUE(SameTiles(config_, *got, *resident.experts().Acquire(LayerId(1), ExpertId(e))));
          continue;
        }
        ++failed;
        EXPECT_THAT(got.status().message(), AllOf(HasSubstr("tiles-000.bin"), HasSubstr("tile "),
                                                  HasSubstr(absl::StrCat("of expert ", e, ", layer 1"))));
      }
    }
    EXPECT_GT(failed, 5);
    EXPECT_GE(model->cache()->stats().failed, failed);
    EXPECT_EQ(static_cast<int64_t>(log.Messages("tile_failed").size()), model->cache()->stats().failed);
    broken = false;
    ExpectSameExperts(config_, *model, resident, 4, 100);
  }
}

}  // namespace
}  // namespace omni
