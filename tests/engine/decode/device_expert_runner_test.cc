// Experts of a region on the device, its kernels on fibers, against the CPU's: the same bytes.
#include "engine/decode/device_expert_runner.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/decode/device_memory.h"
#include "tests/testing/random_model.h"
#include "tests/testing/simt_runtime.h"

namespace omni {
namespace {

using testing::RandomModel;

class DeviceExpertRunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    simt::SetMachine({});
    simt::ClearFaults();
  }
  void TearDown() override {
    EXPECT_THAT(simt::TakeFaults(), ::testing::IsEmpty());
    simt::SetMachine({});
  }

  struct Rows {
    std::vector<int8_t> q;
    std::vector<float> scale;
    int64_t width = 0;
  };
  static Rows RandomRows(const ModelConfig& config, int64_t n, uint32_t seed) {
    Rows rows;
    rows.width = PadTo(config.d, 64);
    rows.q.resize(static_cast<size_t>(n * rows.width));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < config.d; ++j) {
        seed = seed * 1664525 + 1013904223;
        rows.q[static_cast<size_t>(i * rows.width + j)] =
            static_cast<int8_t>(static_cast<int>(seed >> 24) - 127);
      }
      rows.scale.push_back(0.01f * static_cast<float>(i + 1));
    }
    return rows;
  }
  // Every expert of two layers twice, jobs of 1, 3 and 70 rows in turn: what each gives.
  std::vector<float> RunAll(RandomModel& model, ExpertRunner* runner) {
    const ModelConfig& config = model.config();
    const Rows rows = RandomRows(config, 80, 7);
    std::vector<float> all;
    int turn = 0;
    for (int round = 0; round < 2; ++round) {
      for (int32_t l = 0, used = 0; l < config.layers && used < 2; ++l) {
        if (config.IsAttention(l)) continue;
        ++used;
        for (int32_t e = 0; e < config.num_experts(); ++e) {
          ExpertJob job{LayerId(l), ExpertId(e), {}, rows.q.data(), rows.width, rows.scale.data()};
          const int count = turn++ == 3 ? 70 : turn % 3 + 1;
          for (int32_t i = 0; i < count; ++i) job.rows.push_back((i + turn) % 80);
          const auto tiles = model.Acquire(job.layer, job.expert);
          EXPECT_TRUE(tiles.ok());
          std::vector<float> out(static_cast<size_t>(count * config.d));
          const absl::Status done = runner != nullptr ? runner->Run(*tiles, job, out.data())
                                                      : RunExpert(config, *tiles, job, pool_, out.data());
          EXPECT_TRUE(done.ok()) << done;
          all.insert(all.end(), out.begin(), out.end());
        }
      }
    }
    return all;
  }
  static std::shared_ptr<DevicePool> Open(int64_t cap = 0) {
    auto pool = DevicePool::Open(0, cap);
    EXPECT_TRUE(pool.ok()) << pool.status();
    return *std::move(pool);
  }

  WorkerPool pool_{1};
};

TEST_F(DeviceExpertRunnerTest, GivesTheBytesOfTheCpuWithRoomForAllExpertsAndForOne) {
  for (const auto& config : {testing::TinyConfig, testing::OddConfig}) {
    RandomModel model(config(), 5);
    const std::vector<float> want = RunAll(model, nullptr);
    const int64_t before = simt::BytesAllocated();
    int64_t all_bytes = 0;
    {
      const auto runner = DeviceExpertRunner::Create(model.config(), pool_, Open(), 0);
      ASSERT_TRUE(runner.ok()) << runner.status();
      EXPECT_TRUE(RunAll(model, runner->get()) == want);
      const ExpertRunnerReport report = (*runner)->Report();
      EXPECT_EQ(report.name, "fibers");
      EXPECT_EQ(report.held, 2 * model.config().num_experts());
      EXPECT_EQ(report.fallbacks, 0);
      all_bytes = report.bytes_streamed;
    }
    EXPECT_EQ(simt::BytesAllocated(), before);
    const auto one = DeviceExpertRunner::Create(model.config(), pool_, Open(), int64_t{1} << 40);
    ASSERT_TRUE(one.ok()) << one.status();
    EXPECT_TRUE(RunAll(model, one->get()) == want);
    EXPECT_EQ((*one)->Report().held, 1);
    EXPECT_EQ((*one)->Report().bytes_streamed, 2 * all_bytes);
  }
}

TEST_F(DeviceExpertRunnerTest, ALostDeviceChangesNoByteWhereverItHappens) {
  RandomModel model(testing::TinyConfig(), 5);
  const std::vector<float> want = RunAll(model, nullptr);
  for (const int64_t launches : {0, 1, 2, 3, 50}) {
    const auto runner = DeviceExpertRunner::Create(model.config(), pool_, Open(), 0);
    ASSERT_TRUE(runner.ok()) << runner.status();
    simt::SetMachine({.devices = 1, .launches_before_loss = launches});
    EXPECT_TRUE(RunAll(model, runner->get()) == want) << launches;
    EXPECT_TRUE((*runner)->Report().lost);
    EXPECT_GT((*runner)->Report().fallbacks, 0);
    simt::SetMachine({});
  }
}

TEST_F(DeviceExpertRunnerTest, SaysWhatItLacksAndWhatIsWrongWithAJob) {
  RandomModel model(testing::TinyConfig(), 5);
  EXPECT_EQ(DeviceExpertRunner::Create(model.config(), pool_, Open(1000), 0).status().code(),
            absl::StatusCode::kResourceExhausted);
  const auto runner = DeviceExpertRunner::Create(model.config(), pool_, Open(), 0);
  ASSERT_TRUE(runner.ok()) << runner.status();
  const auto tiles = model.Acquire(LayerId(0), ExpertId(0));
  ASSERT_TRUE(tiles.ok());
  const ExpertJob empty{LayerId(0), ExpertId(0), {}, nullptr, 64, nullptr};
  EXPECT_EQ((*runner)->Run(*tiles, empty, nullptr).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace omni
