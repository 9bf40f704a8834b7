// The device's decoder, its kernels on fibers, against the CPU's: the same bytes.
#include "engine/decode/device_decoder.h"

#include <cstring>
#include <map>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/decode/cpu_decoder.h"
#include "engine/decode/device_memory.h"
#include "kernels/device/device.h"
#include "tests/testing/random_model.h"
#ifdef OMNI_DEVICE_ON_FIBERS
#include "tests/testing/simt_runtime.h"
#endif

namespace omni {
namespace {

using ExpertsAt = DeviceSettings::ExpertsAt;
using ::testing::HasSubstr;
using testing::RandomModel;
using testing::RandomTokens;

struct Answers {
  std::vector<float> logits;
  std::vector<int32_t> routes;
  std::vector<std::string> states;
};

// Two sessions in batches of these many rows each, then single steps of the first one.
Answers RunAll(RandomModel& model, Decoder& decoder) {
  WorkerPool pool(1);
  SessionState first(model.config()), second(model.config());
  const std::vector<TokenId> tokens = RandomTokens(60, model.config().vocab, 3);
  Answers answers;
  const auto run = [&](size_t of_first, size_t of_second, size_t at) {
    std::vector<BatchRow> rows;
    for (size_t i = 0; i < of_first; ++i) rows.push_back({&first, tokens[at + i], i % 2 == 0});
    for (size_t i = 0; i < of_second; ++i) rows.push_back({&second, tokens[at + i + 20], true});
    const auto logits = RunBatch(decoder, model.config(), model, pool, rows);
    ASSERT_TRUE(logits.ok()) << logits.status();
    answers.logits.insert(answers.logits.end(), logits->begin(), logits->end());
    for (ExpertId id : decoder.routes()) answers.routes.push_back(id.value);
  };
  run(9, 3, 0);
  run(1, 1, 9);
  run(0, 7, 10);
  for (size_t at = 10; at < 20; ++at) run(1, 0, at);
  EXPECT_TRUE(first.BringHome().ok() && second.BringHome().ok());
  answers.states = {first.Save(), second.Save()};
  return answers;
}

// The model's experts in pinned memory, where a device can fetch them itself.
class PinnedExperts final : public ExpertSource {
 public:
  explicit PinnedExperts(RandomModel& model) : model_(model) {}
  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override {
    const int64_t payload = TileLayout(model_.config().d).payload();
    Expert& kept = experts_[{layer.value, expert.value}];
    if (kept.table.empty()) {
      const absl::StatusOr<ExpertTiles> tiles = model_.Acquire(layer, expert);
      if (!tiles.ok()) return tiles.status();
      const auto count = static_cast<int64_t>(tiles->tiles.size());
      absl::StatusOr<PinnedBuffer> memory = PinnedBuffer::Make(count * PadTo(payload, 256));
      if (!memory.ok()) return memory.status();
      kept.memory = *std::move(memory);
      for (int64_t t = 0; t < count; ++t) {
        uint8_t* const tile = kept.memory.as<uint8_t>(t * PadTo(payload, 256));
        std::copy_n(tiles->tiles[static_cast<size_t>(t)], payload, tile);
        kept.table.push_back(tile);
      }
    }
    return ExpertTiles{kept.table, nullptr};
  }

 private:
  struct Expert {
    PinnedBuffer memory;
    std::vector<const uint8_t*> table;
  };
  RandomModel& model_;
  std::map<std::pair<int32_t, int32_t>, Expert> experts_;
};

struct Case {
  const char* name;
  ModelConfig (*config)();
  ExpertsAt experts;
  bool states_stay = false;
  bool pinned = false;
};

class DeviceDecoderTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
#ifdef OMNI_DEVICE_ON_FIBERS
    simt::SetMachine({});
    simt::ClearFaults();
    simt::SetOrder(simt::Order::kShuffled);
#else
    if (kernels::device::Count() == 0) GTEST_SKIP() << "no device";
#endif
  }
#ifdef OMNI_DEVICE_ON_FIBERS
  void TearDown() override {
    EXPECT_THAT(simt::TakeFaults(), ::testing::IsEmpty());
    simt::SetMachine({});
  }
#endif
};
INSTANTIATE_TEST_SUITE_P(
    Shapes, DeviceDecoderTest,
    ::testing::Values(Case{"tiny", testing::TinyConfig, ExpertsAt::kResident},
                      Case{"odd", testing::OddConfig, ExpertsAt::kResident},
                      Case{"flagless", testing::FlaglessConfig, ExpertsAt::kResident},
                      Case{"ahead", testing::AheadConfig, ExpertsAt::kResident},
                      Case{"address", testing::AddressConfig, ExpertsAt::kResident},
                      Case{"ahead_stays", testing::AheadConfig, ExpertsAt::kResident, true},
                      Case{"flagless_stays", testing::FlaglessConfig, ExpertsAt::kResident, true},
                      Case{"odd_streamed", testing::OddConfig, ExpertsAt::kStreamed},
                      Case{"ahead_streamed", testing::AheadConfig, ExpertsAt::kStreamed},
                      Case{"address_streamed", testing::AddressConfig, ExpertsAt::kStreamed, true},
                      Case{"address_pinned", testing::AddressConfig, ExpertsAt::kStreamed, false, true},
                      Case{"odd_outside", testing::OddConfig, ExpertsAt::kOutside},
                      Case{"ahead_outside", testing::AheadConfig, ExpertsAt::kOutside}),
    [](const auto& info) { return info.param.name; });

DeviceSettings SettingsOf(const Case& c) {
  DeviceSettings settings;
  settings.experts = c.experts;
  settings.states_stay = c.states_stay;
  settings.source_is_pinned = c.pinned;
  settings.max_rows = 16;
  return settings;
}

TEST_P(DeviceDecoderTest, GivesTheBytesOfTheCpu) {
  RandomModel model(GetParam().config(), 5);
  WorkerPool pool(1);
  CpuDecoder cpu(model.weights(), pool);
  const Answers want = RunAll(model, cpu);
  PinnedExperts pinned(model);
  ExpertSource& source = GetParam().pinned ? static_cast<ExpertSource&>(pinned) : model;
  const auto device = DeviceDecoder::Create(model.weights(), &source, SettingsOf(GetParam()));
  ASSERT_TRUE(device.ok()) << device.status();
  const Answers got = RunAll(model, **device);
  ASSERT_EQ(got.logits.size(), want.logits.size());
  EXPECT_EQ(std::memcmp(got.logits.data(), want.logits.data(), got.logits.size() * sizeof(float)), 0);
  EXPECT_EQ(got.routes, want.routes);
  EXPECT_TRUE(got.states == want.states);
  EXPECT_EQ((*device)->graphs_made(), GetParam().experts == ExpertsAt::kResident ? 1 : 0);
  EXPECT_EQ((*device)->bytes_streamed() > 0, GetParam().experts == ExpertsAt::kStreamed);
}

TEST_P(DeviceDecoderTest, GraphsChangeNothing) {
  if (GetParam().experts != ExpertsAt::kResident) GTEST_SKIP() << "no graph there";
  RandomModel model(GetParam().config(), 5);
  DeviceSettings settings = SettingsOf(GetParam());
  const auto with = DeviceDecoder::Create(model.weights(), &model, settings);
  settings.graphs = false;
  const auto without = DeviceDecoder::Create(model.weights(), &model, settings);
  EXPECT_EQ(RunAll(model, **with).logits, RunAll(model, **without).logits);
  EXPECT_EQ((*without)->graphs_made(), 0);
}

#ifdef OMNI_DEVICE_ON_FIBERS  // a device whose memory and life can be cut short

TEST_P(DeviceDecoderTest, TakesNoMoreThanItsCapAndLeavesNothing) {
  RandomModel model(GetParam().config(), 5);
  DeviceSettings settings = SettingsOf(GetParam());
  const int64_t before = simt::BytesAllocated();
  int64_t needed = 0;
  {
    const auto device = DeviceDecoder::Create(model.weights(), &model, settings);
    ASSERT_TRUE(device.ok()) << device.status();
    needed = (*device)->device_bytes();
    EXPECT_EQ(simt::BytesAllocated() - before, needed);
    settings.memory_cap = needed;
    EXPECT_TRUE(DeviceDecoder::Create(model.weights(), &model, settings).ok());
    settings.memory_cap = needed - 1;
    const auto refused = DeviceDecoder::Create(model.weights(), &model, settings);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("allow at least"));
  }
  EXPECT_EQ(simt::BytesAllocated(), before);
  settings.memory_cap = 0;
  simt::SetMachine({.devices = 1, .memory_bytes = simt::BytesAllocated() + needed / 2});
  const auto refused = DeviceDecoder::Create(model.weights(), &model, settings);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("out of memory"));
  EXPECT_EQ(simt::BytesAllocated(), before);
}

TEST_P(DeviceDecoderTest, ALostDeviceEndsThePassAndTheTokenIsRepeatedElsewhere) {
  if (GetParam().states_stay) GTEST_SKIP() << "those states are lost with it";
  RandomModel model(GetParam().config(), 5);
  WorkerPool pool(1);
  const std::vector<TokenId> tokens = RandomTokens(4, model.config().vocab, 3);
  CpuDecoder cpu(model.weights(), pool);
  SessionState want(model.config());
  std::vector<float> last;
  for (TokenId token : tokens) {
    const BatchRow row{&want, token, true};
    const auto logits = RunBatch(cpu, model.config(), model, pool, {&row, 1});
    last.assign(logits->begin(), logits->end());
  }
  // Wherever it happens.
  for (const int64_t launches : {0, 7, 30, 61, 62, 63, 64, 100}) {
    SessionState state(model.config());
    const auto device = DeviceDecoder::Create(model.weights(), &model, SettingsOf(GetParam()));
    ASSERT_TRUE(device.ok()) << device.status();
    simt::SetMachine({.devices = 1, .launches_before_loss = launches});
    size_t done = 0;
    absl::Status lost;
    for (; done < tokens.size() && lost.ok(); ++done) {
      const BatchRow row{&state, tokens[done], true};
      lost = RunBatch(**device, model.config(), model, pool, {&row, 1}).status();
    }
    ASSERT_EQ(lost.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(lost.message()), HasSubstr("device: "));
    EXPECT_EQ(state.position(), static_cast<int64_t>(done) - 1);
    // The states came back whole after the last pass that ended: the CPU takes over where that one was.
    std::vector<float> logits_here;
    for (size_t at = done - 1; at < tokens.size(); ++at) {
      const BatchRow row{&state, tokens[at], true};
      const auto logits = RunBatch(cpu, model.config(), model, pool, {&row, 1});
      logits_here.assign(logits->begin(), logits->end());
    }
    EXPECT_EQ(logits_here, last) << launches;
    simt::SetMachine({});
  }
}

TEST_F(DeviceDecoderTest, SaysWhatIsMissing) {
  RandomModel model(testing::TinyConfig(), 5);
  simt::SetMachine({.devices = 0});
  EXPECT_EQ(DeviceDecoder::Create(model.weights(), &model, {}).status().code(),
            absl::StatusCode::kUnavailable);
  simt::SetMachine({});
  DeviceSettings settings;
  settings.device = 1;
  EXPECT_THAT(std::string(DeviceDecoder::Create(model.weights(), &model, settings).status().message()),
              HasSubstr("has 1 CUDA devices"));
  settings.device = 0;
  settings.max_rows = 513;
  EXPECT_EQ(DeviceDecoder::Create(model.weights(), &model, settings).status().code(),
            absl::StatusCode::kInvalidArgument);
}

#endif

TEST_F(DeviceDecoderTest, RejectsBadBatchesAndLeavesStatesAlone) {
  RandomModel model(testing::TinyConfig(), 5);
  const auto device = DeviceDecoder::Create(model.weights(), &model, {.max_rows = 2});
  ASSERT_TRUE(device.ok()) << device.status();
  SessionState state(model.config()), other(model.config()), foreign(testing::OddConfig());
  const TokenId token(3), outside(static_cast<int32_t>(model.config().vocab));
  const std::string before = state.Save();
  const auto begin = [&](const std::vector<BatchRow>& rows) { return (*device)->Begin(rows).code(); };
  EXPECT_EQ(begin({}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(begin({{nullptr, token}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(begin({{&state, outside}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(begin({{&foreign, token}}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(begin({{&state, token}, {&state, token}, {&state, token}}), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(state.Save(), before);
}

}  // namespace
}  // namespace omni
