// What a finished run takes for likely is written down, and another run learns from it.
#include "engine/train/distill.h"

#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "tests/engine/train/run_fixture.h"

namespace omni::train {
namespace {

using ::testing::HasSubstr;

class Distill : public TrainRun {
 protected:
  // A trained run, and what it takes for likely in eight segments from the third on.
  TrainSettings Taught() {
    TrainSettings teacher = Small("teacher");
    teacher.steps = 60;
    teacher.lr = 5e-3;
    teacher.shared_steps = 40;
    EXPECT_TRUE(Train(teacher).ok());
    const std::string weights = Weights(teacher);
    teacher.resume = true;
    teacher.write_logits = File();
    teacher.logits_from = 2;
    teacher.logits_steps = 8;
    const absl::Status written = Train(teacher);
    EXPECT_TRUE(written.ok()) << written;
    EXPECT_EQ(Weights(teacher), weights);
    TrainSettings student = Small("student");
    student.teacher = File();
    return student;
  }
  std::string File() const { return Path("likely.safetensors"); }
};

TEST_F(Distill, WritesTheLikeliestTokensOfEachPlaceOfTheSegments) {
  Taught();
  const auto file = SafetensorsFile::Open(File());
  ASSERT_TRUE(file.ok()) << file.status();
  const TensorView weights = file->tensors().at("weights"), ids = file->tensors().at("ids");
  EXPECT_EQ(weights.shape, (std::vector<int64_t>{8 * 4 * 32, 8}));
  EXPECT_EQ(ids.shape, (std::vector<int64_t>{8 * 4 * 32, 8, 2}));
  EXPECT_EQ(file->metadata().at("first"), "2");
}

TEST_F(Distill, TeachesWhereTheFileHasSomethingAndIsTakenUpToTheSameBytes) {
  const TrainSettings whole = Taught();
  const absl::Status trained = Train(whole);
  ASSERT_TRUE(trained.ok()) << trained;
  const auto at_step = [&](const char* name, const std::string& teacher, int64_t step) {
    TrainSettings s = Small(name);
    s.teacher = teacher;
    s.stop_at = step;
    EXPECT_TRUE(Train(s).ok());
    return Weights(s);
  };
  EXPECT_EQ(at_step("taught2", File(), 2), at_step("plain2", "", 2));
  EXPECT_NE(at_step("taught3", File(), 3), at_step("plain3", "", 3));
  TrainSettings cut = whole;
  cut.out = Small("taught3").out;
  cut.resume = true;
  cut.stop_at = 0;
  ASSERT_TRUE(Train(cut).ok());
  EXPECT_EQ(Weights(cut), Weights(whole));
}

TEST_F(Distill, TellsTheTeachersDistributionApartFromTheTextsTokens) {
  TrainSettings all = Taught(), none = all;
  all.stop_at = none.stop_at = 3;
  all.teacher_share = 1;
  none.out = Small("none").out;
  none.teacher_share = 0;
  ASSERT_TRUE(Train(all).ok());
  ASSERT_TRUE(Train(none).ok());
  // A cross entropy with a spread distribution is that of one token only by chance.
  EXPECT_NE(Log(all).back()["loss"], Log(none).back()["loss"]);
}

TEST_F(Distill, RefusesAFileOfOtherSegmentsOrADamagedOne) {
  TrainSettings s = Taught();
  s.batch = 5;
  EXPECT_THAT(Problem(s), HasSubstr("--teacher: " + File() + ": was written with batch 4, not 5"));
  std::filesystem::remove_all(s.out);
  s.batch = 4;
  s.stride = Stride::kFibonacci;
  EXPECT_THAT(Problem(s), HasSubstr("stride plain, not fibonacci"));
  std::filesystem::remove_all(s.out);
  s.stride = Stride::kPlain;
  s.teacher = Path("text.txt");
  EXPECT_THAT(Problem(s), HasSubstr("text.txt"));
  std::filesystem::remove_all(s.out);
  s.teacher = File();
  std::string bytes = Bytes(File());
  bytes[bytes.size() - 1] = bytes[bytes.size() - 2] = '\xff';  // of the ids, which are bytes and stand last
  std::ofstream(File(), std::ios::binary) << bytes;
  EXPECT_THAT(Problem(s), HasSubstr("is no token with its probability"));
}

}  // namespace
}  // namespace omni::train
