// What a resumed run may change of its settings.
#include "engine/train/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace omni::train {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class CompareSettingsTest : public ::testing::Test {
 protected:
  void SetUp() override { now_ = was_ = *PresetSettings("tiny"); }
  absl::Status Compare() {
    changes_ = nlohmann::json::object();
    // As it lies in the checkpoint.
    const nlohmann::json recorded = nlohmann::json::parse(RecordedSettings(was_).dump());
    return CompareSettings(recorded, now_, &changes_);
  }

  TrainSettings was_, now_;
  nlohmann::json changes_;
};

TEST_F(CompareSettingsTest, GoesOnWithTheSame) {
  EXPECT_TRUE(Compare().ok());
  EXPECT_TRUE(changes_.empty());
}

TEST_F(CompareSettingsTest, RefusesWhatTheStateWasMadeWithAndNamesItAll) {
  now_.batch = 5;
  now_.config.heads = 2;
  now_.config.lattice = {4, 4, 4};
  now_.chosen = {"batch", "heads", "lattice"};
  const std::string message(Compare().message());
  EXPECT_THAT(message, HasSubstr("--batch 16, now 5"));
  EXPECT_THAT(message, HasSubstr("--heads 4, now 2"));
  EXPECT_THAT(message, HasSubstr("--lattice [8,4,4], now [4,4,4]"));
}

TEST_F(CompareSettingsTest, RefusesAnotherDefaultButTakesAnotherChoice) {
  was_.lr = 0.004;
  was_.steps = 100;
  EXPECT_THAT(std::string(Compare().message()), HasSubstr("--lr 0.004, now 0.008"));
  EXPECT_THAT(std::string(Compare().message()), HasSubstr("--steps 100, now 8400"));
  now_.chosen = {"lr"};
  EXPECT_THAT(std::string(Compare().message()), Not(HasSubstr("--lr")));
  now_.chosen = {"lr", "steps"};
  EXPECT_TRUE(Compare().ok());
  EXPECT_EQ(changes_, (nlohmann::json{{"lr", 0.008}, {"steps", 8400}}));
}

TEST_F(CompareSettingsTest, DoesNotMindWhereThingsLieOrHowTheyAreShown) {
  now_.out = "elsewhere";
  now_.data = {"moved.txt"};
  now_.threads = 7;
  now_.save_every = 40;
  now_.plot = now_.resume = true;
  EXPECT_TRUE(Compare().ok());
}

TEST_F(CompareSettingsTest, ComparesWhatIsRecordedAndNoMore) {
  const absl::Status none = CompareSettings(nlohmann::json::object(), now_, &changes_);
  EXPECT_TRUE(none.ok()) << none;
}

}  // namespace
}  // namespace omni::train
