#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/decode/decoder.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using testing::PlainExpert;
using testing::Random;
using testing::RandomModel;

struct Inputs {
  Inputs(int64_t rows, int64_t d, uint64_t seed) : stride(PadTo(d, 64)) {
    Random random(seed);
    q.resize(static_cast<size_t>(rows * stride));
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < d; ++i)
        q[static_cast<size_t>(row * stride + i)] = static_cast<int8_t>(random.Below(255) - 127);
      scale.push_back(random.Uniform(0.005f, 0.03f));
    }
  }
  ExpertJob Job(std::vector<int32_t> rows) const {
    return {LayerId(0), ExpertId(1), std::move(rows), q.data(), stride, scale.data()};
  }
  int64_t stride;
  std::vector<int8_t> q;
  std::vector<float> scale;
};

std::vector<float> RunJob(RandomModel& model, const ExpertJob& job, int threads) {
  WorkerPool pool(threads);
  std::vector<float> out(job.rows.size() * static_cast<size_t>(model.config().d), std::nanf(""));
  EXPECT_TRUE(RunExpert(model.config(), *model.Acquire(LayerId(0), ExpertId(1)), job, pool, out.data()).ok());
  return out;
}

bool SameBytes(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

TEST(RunExpertTest, ComputesSwigluOnTheNeuronsOfItsTiles) {
  for (const ModelConfig& config : {testing::TinyConfig(), testing::OddConfig()}) {
    RandomModel model(config, 5);
    const Inputs in(1, config.d, 6);
    const PlainExpert w = model.MakeExpert(LayerId(0), ExpertId(1));
    const size_t d = static_cast<size_t>(config.d), f = static_cast<size_t>(config.f);
    std::vector<double> want(d), a(f);
    double largest = 0;
    for (size_t n = 0; n < f; ++n) {
      int64_t gate = 0, up = 0;
      for (size_t i = 0; i < d; ++i) gate += w.gate[n * d + i] * in.q[i], up += w.up[n * d + i] * in.q[i];
      const double g = static_cast<double>(gate) * in.scale[0] * w.gate_scale[n];
      a[n] = static_cast<double>(up) * in.scale[0] * w.up_scale[n] * g / (1 + std::exp(-g));
      largest = std::max(largest, std::fabs(a[n]));
    }
    for (size_t i = 0; i < d; ++i) {
      for (size_t n = 0; n < f; ++n) want[i] += w.down[n * d + i] * std::nearbyint(a[n] / largest * 127);
      want[i] *= largest / 127;
    }
    const std::vector<float> out = RunJob(model, in.Job({0}), 1);
    // No code lies near an edge for these seeds: what is left is float rounding of the scale.
    for (size_t i = 0; i < d; ++i) EXPECT_NEAR(out[i], want[i], 1e-5 * (largest + std::fabs(want[i]))) << i;
  }
}

TEST(RunExpertTest, GivesARowTheSameBytesInAnyJobAndOnAnyThreads) {
  RandomModel model(testing::OddConfig(), 5);
  constexpr int32_t kRows = 300;  // several blocks of rows, and work enough for the pool
  const Inputs in(kRows, model.config().d, 7);
  std::vector<int32_t> all(kRows);
  std::iota(all.begin(), all.end(), 0);
  const std::vector<float> together = RunJob(model, in.Job(all), 1);
  EXPECT_TRUE(SameBytes(together, RunJob(model, in.Job(all), 3)));
  const size_t d = static_cast<size_t>(model.config().d);
  const std::vector<int32_t> some = {0, 1, 5, 33, 34, 298};
  const std::vector<float> gathered = RunJob(model, in.Job(some), 1);
  for (size_t j = 0; j < some.size(); ++j) {
    const auto want = std::span(together).subspan(static_cast<size_t>(some[j]) * d, d);
    EXPECT_TRUE(SameBytes(want, std::span(gathered).subspan(j * d, d))) << some[j];
    EXPECT_TRUE(SameBytes(want, RunJob(model, in.Job({some[j]}), 1))) << some[j];
  }
}

// Three experts, with 1, 9 and 3 rows, and every choice of tiles that they have in common.
TEST(RunExpertsTest, GivesEachExpertsRowsTheBytesTheyGetAloneWhateverTilesAreShared) {
  for (const ModelConfig& config : {testing::TinyConfig(), testing::OddConfig()}) {
    RandomModel model(config, 5);
    const Inputs in(13, config.d, 7);
    constexpr int64_t kFirst[] = {0, 1, 10, 13};
    const auto tiles = static_cast<size_t>(TilesPerExpert(config));
    for (unsigned shared = 0; shared < 1u << tiles; ++shared) {
      std::vector<std::vector<const uint8_t*>> own(3);
      std::vector<ExpertTiles> experts;
      std::vector<ExpertJob> jobs;
      for (int32_t e = 0; e < 3; ++e) {
        auto& tile = own[static_cast<size_t>(e)];
        for (size_t t = 0; t < tiles; ++t)
          tile.push_back(model.Acquire(LayerId(0), ExpertId(shared >> t & 1 ? 0 : e))->tiles[t]);
        experts.push_back({tile, nullptr});
        std::vector<int32_t> rows(static_cast<size_t>(kFirst[e + 1] - kFirst[e]));
        std::iota(rows.begin(), rows.end(), 0);
        jobs.push_back({LayerId(0), ExpertId(e), rows, in.q.data() + kFirst[e] * in.stride, in.stride,
                        in.scale.data() + kFirst[e]});
      }
      EXPECT_EQ(SharedTiles(experts), std::popcount(shared));
      std::vector<float> together(static_cast<size_t>(13 * config.d), std::nanf("")), alone = together;
      WorkerPool pool(1), three(3);
      ASSERT_TRUE(RunExperts(config, experts, jobs, three, together.data()).ok());
      for (size_t e = 0; e < 3; ++e)
        ASSERT_TRUE(RunExpert(config, experts[e], jobs[e], pool, alone.data() + kFirst[e] * config.d).ok());
      EXPECT_TRUE(SameBytes(together, alone)) << "tiles " << shared;
    }
  }
}

TEST(RunExpertsTest, RefusesTilesThatAreStillToBeChecked) {
  RandomModel model(testing::TinyConfig(), 5);
  const Inputs in(1, model.config().d, 7);
  ExpertTiles tiles = *model.Acquire(LayerId(0), ExpertId(1));
  tiles.check = [](int64_t) { return absl::OkStatus(); };
  const ExpertJob job = in.Job({0});
  std::vector<float> out(static_cast<size_t>(model.config().d));
  WorkerPool pool(1);
  EXPECT_FALSE(RunExperts(model.config(), {&tiles, 1}, {&job, 1}, pool, out.data()).ok());
}

TEST(ExpertRunTest, GivesTheSameBytesInWhateverOrderTilesCome) {
  for (const ModelConfig& config : {testing::TinyConfig(), testing::OddConfig()}) {
    RandomModel model(config, 5);
    const Inputs in(40, config.d, 7);
    const ExpertJob job = in.Job({0, 3, 4, 39});
    const std::vector<float> want = RunJob(model, job, 1);
    const ExpertTiles tiles = *model.Acquire(LayerId(0), ExpertId(1));
    Random random(3);
    for (int threads : {1, 2}) {
      for (int round = 0; round < 8; ++round) {
        WorkerPool pool(threads);
        ExpertRun run(config, job, pool);
        for (int part = 0; part < round; ++part) {
          std::vector<const uint8_t*> some(tiles.tiles.size());
          for (size_t t = 0; t < some.size(); ++t) some[t] = random.Below(2) == 0 ? tiles.tiles[t] : nullptr;
          ASSERT_TRUE(run.Add({some, nullptr}).ok());
        }
        std::vector<float> out(want.size(), std::nanf(""));
        ASSERT_TRUE(run.Finish(tiles, out.data()).ok());
        EXPECT_TRUE(SameBytes(out, want)) << round << " parts";
      }
    }
    WorkerPool pool(1);
    ExpertRun run(config, job, pool);
    EXPECT_EQ(run.Add({tiles.tiles.subspan(1), nullptr}).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(RunExpertTest, NothingIsComputedWithATileThatFailsItsCheck) {
  RandomModel model(testing::TinyConfig(), 5);
  const Inputs in(3, model.config().d, 8);
  const ExpertJob job = in.Job({0, 1, 2});
  const std::vector<float> want = RunJob(model, job, 1);
  const ExpertTiles good = *model.Acquire(LayerId(0), ExpertId(1));
  const size_t last = good.tiles.size() - 1;
  for (int threads : {1, 2}) {
    WorkerPool pool(threads);
    std::vector<std::atomic<int>> checks(good.tiles.size());
    bool damaged = true;
    ExpertTiles tiles = good;
    std::vector<const uint8_t*> pointers(good.tiles.begin(), good.tiles.end());
    tiles.tiles = pointers;
    tiles.check = [&](int64_t tile) {
      ++checks[static_cast<size_t>(tile)];
      return damaged && static_cast<size_t>(tile) == last ? absl::DataLossError("tile fails")
                                                          : absl::OkStatus();
    };
    std::vector<float> out(want.size());
    EXPECT_TRUE(absl::IsDataLoss(RunExpert(model.config(), tiles, job, pool, out.data())));
    ExpertRun run(model.config(), job, pool);
    pointers[0] = nullptr;
    EXPECT_TRUE(absl::IsDataLoss(run.Add(tiles)));
    pointers[0] = good.tiles[0];
    EXPECT_TRUE(absl::IsDataLoss(run.Finish(tiles, out.data())));
    damaged = false;
    ASSERT_TRUE(run.Finish(tiles, out.data()).ok());
    EXPECT_TRUE(SameBytes(out, want));
    EXPECT_EQ(checks[last], 4);
  }
}

TEST(RunExpertTest, RejectsWrongTilesAndEmptyJobs) {
  RandomModel model(testing::TinyConfig(), 5);
  WorkerPool pool(1);
  const Inputs in(1, model.config().d, 8);
  std::vector<float> out(static_cast<size_t>(model.config().d));
  ExpertTiles tiles = *model.Acquire(LayerId(0), ExpertId(1));
  EXPECT_FALSE(RunExpert(model.config(), tiles, in.Job({}), pool, out.data()).ok());
  tiles.tiles = tiles.tiles.first(1);
  EXPECT_THAT(RunExpert(model.config(), tiles, in.Job({0}), pool, out.data()).message(),
              ::testing::HasSubstr("expert 1, layer 0: 1 tiles"));
}

}  // namespace
}  // namespace omni
