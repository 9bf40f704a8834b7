#include "store/model/budget.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/model/session_state.h"
#include "store/format/manifest.h"
#include "tests/store/model/streamed_fixture.h"
#include "tests/testing/recording_log.h"

namespace omni {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::RecordingLog;
using ::testing::StartsWith;
using testing::StreamedConfig;
using testing::StreamedTest;

constexpr int64_t kMebibyte = 1 << 20;

class BudgetTest : public StreamedTest {
 protected:
  // A machine with so much memory free; nullopt: one that does not say.
  Machine With(std::optional<int64_t> free_bytes) {
    const std::string root = temp_ / absl::StrCat("machine", ++machines_);
    std::filesystem::create_directories(root + "/proc");
    if (free_bytes.has_value()) {
      std::ofstream(root + "/proc/meminfo")
          << "MemTotal: 99999999 kB\nMemAvailable: " << *free_bytes / 1024 << " kB\n";
    }
    return Machine(root);
  }
  // What is free so that the default budget is `bytes`, or a little more.
  static int64_t FreeFor(int64_t bytes) { return PadTo((bytes + 2) / 3 * 4, 4096); }
  static OpenOptions Sessions(int64_t sessions) {
    OpenOptions options;
    options.sessions = sessions;
    return options;
  }
  std::string dir() const { return temp_ / "m"; }
  // The model says that it has so many more bytes of tiles. It can be planned for, and not opened.
  void Inflate(int64_t bytes) {
    const std::string path = dir() + "/model.json";
    Manifest manifest = *Manifest::Parse(path, *ReadText(path, kMebibyte));
    manifest.counts.inline_tiles = bytes / TileLayout(config_.d).payload();
    std::ofstream(path, std::ios::trunc) << manifest.Encode();
  }

  int machines_ = 0;
};

TEST_F(BudgetTest, SaysThatAModelIsStreamedWhichNobodyAskedFor) {
  Pack(StreamedConfig());
  Inflate(400 * kMebibyte);
  OpenOptions streamed;
  streamed.residency = Residency::kStreamed;
  const RecordingLog log;
  EXPECT_FALSE(FitToMemory(dir(), std::nullopt, {}, With(0)).ok());
  EXPECT_EQ(FitToMemory(dir(), std::nullopt, {}, With(800 * kMebibyte))->residency, Residency::kWhole);
  EXPECT_TRUE(FitToMemory(dir(), std::nullopt, streamed, With(400 * kMebibyte)).ok());
  EXPECT_THAT(log.lines(), IsEmpty());
  EXPECT_EQ(FitToMemory(dir(), std::nullopt, {}, With(400 * kMebibyte))->residency, Residency::kStreamed);
  EXPECT_THAT(log.Messages("model_streamed"),
              ElementsAre(AllOf(StartsWith(dir()), HasSubstr("memory are 314572800: its experts are read"))));
}

TEST_F(BudgetTest, SaysThatMoreMemoryIsGivenThanIsFree) {
  const RecordingLog log;
  (void)FitToMemory(dir(), 300 * kMebibyte, {}, With(300 * kMebibyte));
  (void)FitToMemory(dir(), 300 * kMebibyte, {}, With(std::nullopt));
  EXPECT_THAT(log.lines(), IsEmpty());
  (void)FitToMemory(dir(), 301 * kMebibyte, {}, With(300 * kMebibyte));
  EXPECT_THAT(
      log.Messages("budget_above_free"),
      ElementsAre(HasSubstr("a budget of 315621376 bytes for " + dir() + ", of which 314572800 are free")));
}

TEST_F(BudgetTest, AModelThatFitsIntoThreeQuartersOfWhatIsFreeIsKeptWhole) {
  Pack(StreamedConfig());
  const int64_t needed = *WholeModelBytes(dir(), {});
  const absl::StatusOr<OpenOptions> fits = FitToMemory(dir(), std::nullopt, {}, With(FreeFor(needed)));
  ASSERT_TRUE(fits.ok()) << fits.status();
  EXPECT_EQ(fits->residency, Residency::kWhole);
  const absl::StatusOr<Model> model = OpenModel(dir(), *fits);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->cache(), nullptr);
  ASSERT_NE(model->plan(), nullptr);
  EXPECT_LE(model->plan()->used_bytes(), *fits->ram_bytes);
}

TEST_F(BudgetTest, TheStatesOfTheSessionsCount) {
  Pack(StreamedConfig());
  const int64_t state = SessionState::BytesFor(config_);
  ASSERT_GT(state, 0);
  EXPECT_EQ(*WholeModelBytes(dir(), Sessions(16)) - *WholeModelBytes(dir(), {}), 15 * state);
  const OpenOptions sixteen = Sessions(16);
  const Machine machine = With(FreeFor(*WholeModelBytes(dir(), Sessions(16))) - 4096);
  EXPECT_EQ(FitToMemory(dir(), std::nullopt, {}, machine)->residency, Residency::kWhole);
  // Streaming takes the program's own memory into account, and so wants more than there is.
  EXPECT_TRUE(absl::IsResourceExhausted(FitToMemory(dir(), std::nullopt, sixteen, machine).status()));
  // A plan admits as many as were asked for, and those that what is left holds.
  const OpenOptions open =
      *FitToMemory(dir(), std::nullopt, sixteen, With(FreeFor(*WholeModelBytes(dir(), sixteen) + 3 * state)));
  const absl::StatusOr<Model> model = OpenModel(dir(), open);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->plan()->sessions, 16);
  EXPECT_EQ(model->plan()->sessions_that_fit(), 19);
}

TEST_F(BudgetTest, WithoutFreeMemoryTheModelIsRefusedByNameWithTheLeastThatWorks) {
  Pack(StreamedConfig());
  for (const Residency residency : {Residency::kWhole, Residency::kStreamed}) {
    OpenOptions options;
    options.residency = residency;
    const absl::Status refused = FitToMemory(dir(), std::nullopt, options, With(0)).status();
    EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
    EXPECT_THAT(refused.message(), AllOf(HasSubstr(dir()), HasSubstr("budget of 0 MiB"),
                                         HasSubstr("the least that works is"), HasSubstr("--ram")));
  }
  // Nor does a budget of nothing mean that there is none.
  OpenOptions nothing;
  nothing.residency = Residency::kStreamed;
  for (const std::optional<int64_t> ram : {std::optional<int64_t>(0), std::optional<int64_t>()}) {
    nothing.ram_bytes = ram;
    const absl::Status refused = OpenModel(dir(), nothing).status();
    EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
    EXPECT_THAT(refused.message(), AllOf(HasSubstr(dir()), HasSubstr("the least that works is")));
  }
}

TEST_F(BudgetTest, WhatIsToBeStreamedGetsThreeQuartersOfWhatIsFree) {
  OpenOptions streamed;
  streamed.residency = Residency::kStreamed;
  Pack(StreamedConfig());
  const absl::StatusOr<OpenOptions> open = FitToMemory(dir(), std::nullopt, streamed, With(400 * kMebibyte));
  ASSERT_TRUE(open.ok()) << open.status();
  EXPECT_EQ(open->residency, Residency::kStreamed);
  EXPECT_EQ(open->ram_bytes, 300 * kMebibyte);
  const absl::StatusOr<Model> model = OpenModel(dir(), *open);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_NE(model->cache(), nullptr);
  EXPECT_EQ(model->plan()->ram_bytes, 300 * kMebibyte);
}

TEST_F(BudgetTest, WhereNothingIsKnownOfTheMemoryAModelIsWholeOrStreamedAsAsked) {
  Pack(StreamedConfig());
  const OpenOptions whole = *FitToMemory(dir(), std::nullopt, {}, With(std::nullopt));
  EXPECT_EQ(whole.residency, Residency::kWhole);
  EXPECT_EQ(whole.ram_bytes, std::nullopt);
  EXPECT_EQ(OpenModel(dir(), whole)->plan(), nullptr);
  OpenOptions asked;
  asked.residency = Residency::kStreamed;
  const OpenOptions streamed = *FitToMemory(dir(), std::nullopt, asked, With(std::nullopt));
  EXPECT_EQ(streamed.residency, Residency::kStreamed);
  EXPECT_EQ(streamed.ram_bytes, int64_t{4} << 30);
}

TEST_F(BudgetTest, AGivenBudgetIsTakenWhateverIsFree) {
  Pack(StreamedConfig());
  const OpenOptions open = *FitToMemory(dir(), 300 * kMebibyte, {}, With(0));
  EXPECT_EQ(open.residency, Residency::kStreamed);
  EXPECT_EQ(open.ram_bytes, 300 * kMebibyte);
}

TEST_F(BudgetTest, AModelWithoutExpertsIsKeptWholeUnderAnyBudgetThatHoldsIt) {
  ModelConfig config = StreamedConfig();
  config.attention_period = 1;  // every layer has an ordinary FFN
  Pack(config);
  const OpenOptions open = *FitToMemory(dir(), 300 * kMebibyte, {}, With(0));
  const absl::StatusOr<Model> model = OpenModel(dir(), open);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->cache(), nullptr);
  ASSERT_NE(model->plan(), nullptr);
  EXPECT_EQ(model->plan()->cache_tiles, 0);
  EXPECT_TRUE(absl::IsInvalidArgument(model->experts().Acquire(LayerId(0), ExpertId(0)).status()));
  const absl::Status refused = OpenModel(dir(), *FitToMemory(dir(), kMebibyte, {}, With(0))).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(refused.message(), AllOf(HasSubstr(dir()), HasSubstr("the least that works is")));
}

}  // namespace
}  // namespace omni
