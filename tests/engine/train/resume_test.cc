// A run that goes on: with what it was started with, or not at all.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <utility>

#include "engine/model/checkpoint.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/train/run_fixture.h"

namespace omni::train {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class TrainResume : public TrainRun {
 protected:
  // A run that ended after a step, with what --resume then is given.
  TrainSettings Stopped(const std::string& out, int64_t step,
                        const std::function<void(TrainSettings&)>& change = nullptr) {
    TrainSettings s = Small(out);
    if (change) change(s);
    return StopAt(std::move(s), step);
  }
  static TrainSettings StopAt(TrainSettings s, int64_t step) {
    s.stop_at = step;
    const absl::Status trained = Train(s);
    EXPECT_TRUE(trained.ok()) << trained;
    s.stop_at = 0;
    s.resume = true;
    return s;
  }
  // A run that ended after a step and goes on gets the weights of the one that did not.
  static void ExpectResumes(TrainSettings s, int64_t step, const TrainSettings& whole) {
    s = StopAt(std::move(s), step);
    const absl::Status resumed = Train(s);
    EXPECT_TRUE(resumed.ok()) << resumed;
    EXPECT_EQ(Weights(s), Weights(whole));
  }
  void ChangeText() const { std::ofstream(Path("text.txt"), std::ios::app) << "another last line\n"; }
  std::string OtherTokenizer() const {
    const auto other = Tokenizer::Train("another text, another tokenizer, another text", 300);
    EXPECT_TRUE(other.ok() && other->Save(Path("other.omni")).ok());
    return Path("other.omni");
  }
  static fs::path File(const TrainSettings& s, const char* name) {
    return fs::path(s.out) / "checkpoint" / name;
  }

  // The checkpoint as versions before this one wrote it: it does not say what the run was started with.
  static void ForgetWhatItWasStartedWith(const TrainSettings& s) {
    const std::string path = File(s, "train.safetensors").string();
    auto file = SafetensorsFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    auto metadata = file->metadata();
    ASSERT_EQ(metadata.erase("data_xxh3") + metadata.erase("tokenizer_xxh3") + metadata.erase("settings"),
              3u);
    ASSERT_TRUE(WriteSafetensors(path + ".new", file->tensors(), metadata).ok());
    fs::rename(path + ".new", path);
  }
};

TEST_F(TrainResume, RefusesAnotherTextAndLeavesEverythingAsItIs) {
  const TrainSettings s = Stopped("run", 4);
  const std::string weights = Weights(s), tokenizer = Bytes(File(s, "tokenizer.omni")),
                    log = Bytes(fs::path(s.out) / "log.jsonl");
  ChangeText();
  EXPECT_THAT(Problem(s), HasSubstr("--data: this is not the text"));
  EXPECT_EQ(Weights(s), weights);
  EXPECT_EQ(Bytes(File(s, "tokenizer.omni")), tokenizer);
  EXPECT_EQ(Bytes(fs::path(s.out) / "log.jsonl"), log);
}

TEST_F(TrainResume, RefusesAnotherTokenizer) {
  TrainSettings s = Stopped("run", 4);
  const std::string own = Path("own.omni");
  fs::copy_file(File(s, "tokenizer.omni"), own);
  s.tokenizer = OtherTokenizer();
  EXPECT_THAT(Problem(s), HasSubstr("--tokenizer: "));
  s.tokenizer = "";
  fs::copy_file(OtherTokenizer(), File(s, "tokenizer.omni"), fs::copy_options::overwrite_existing);
  EXPECT_THAT(Problem(s), HasSubstr("tokenizer.omni: not the tokenizer"));
  fs::copy_file(own, File(s, "tokenizer.omni"), fs::copy_options::overwrite_existing);
  s.tokenizer = own;
  EXPECT_TRUE(Train(s).ok());
}

TEST_F(TrainResume, RefusesOtherSettingsUnlessTheyMayChangeAndAreChosen) {
  TrainSettings s = Stopped("run", 4);
  s.batch = 5;
  EXPECT_THAT(Problem(s), HasSubstr("--batch 4, now 5"));
  s.batch = 4;
  s.config.heads = 2;  // the same tensors
  EXPECT_THAT(Problem(s), HasSubstr("--heads 4, now 2"));
  s.config.heads = 4;
  s.lr = 1e-3;
  EXPECT_THAT(Problem(s), HasSubstr("--lr 0.003, now 0.001"));
  s.chosen = {"lr"};
  EXPECT_TRUE(Train(s).ok());
  EXPECT_EQ(Log(s)[Log(s).size() - 2]["changes"], (nlohmann::json{{"lr", 1e-3}}));
}

TEST_F(TrainResume, GoesOnFromTheCheckpointOfAnOlderVersion) {
  const TrainSettings whole = Small("whole");
  ASSERT_TRUE(Train(whole).ok());
  for (const int64_t step : {3, 5, 8}) {
    const TrainSettings s = Stopped("run" + std::to_string(step), step);
    ForgetWhatItWasStartedWith(s);
    ::testing::internal::CaptureStderr();
    const absl::Status went_on = Train(s);
    EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("note: the checkpoint does not say"));
    EXPECT_TRUE(went_on.ok()) << went_on;
    EXPECT_EQ(Weights(s), Weights(whole));
  }
}

TEST_F(TrainResume, KeepsTheTokenizerAndTheModelOfAnOlderVersionsCheckpoint) {
  TrainSettings s = Stopped("run", 4);
  ForgetWhatItWasStartedWith(s);
  const std::string tokenizer = Bytes(File(s, "tokenizer.omni"));
  s.config.heads = 2;
  EXPECT_THAT(Problem(s), HasSubstr("--heads 4, now 2"));
  s.config.heads = 4;
  ChangeText();  // nobody can tell
  ASSERT_TRUE(Train(s).ok());
  EXPECT_EQ(Bytes(File(s, "tokenizer.omni")), tokenizer);
}

TEST_F(TrainResume, PartsTheExpertsWhoseSharedStartIsMadeShorter) {
  TrainSettings whole = Small("whole");
  whole.shared_steps = 4;
  ASSERT_TRUE(Train(whole).ok());
  TrainSettings s = Stopped("run", 4, [](TrainSettings& first) { first.shared_steps = 8; });
  s.shared_steps = 4;
  s.chosen = {"shared-steps"};
  ASSERT_TRUE(Train(s).ok());
  EXPECT_EQ(Weights(s), Weights(whole));
}

TEST_F(TrainResume, GoesOnSharingWithExpertsThatHaveJustParted) {
  TrainSettings whole = Small("whole");
  whole.shared_steps = 8;
  ASSERT_TRUE(Train(whole).ok());
  TrainSettings s = Stopped("run", 4, [](TrainSettings& first) { first.shared_steps = 4; });
  s.shared_steps = 8;
  s.chosen = {"shared-steps"};
  ASSERT_TRUE(Train(s).ok());
  EXPECT_EQ(Weights(s), Weights(whole));
}

TEST_F(TrainResume, RefusesToMakeOneOfExpertsThatHaveParted) {
  TrainSettings s = Stopped("run", 6, [](TrainSettings& first) { first.shared_steps = 4; });
  s.shared_steps = 8;
  s.chosen = {"shared-steps"};
  EXPECT_THAT(Problem(s), HasSubstr("--shared-steps 8: the experts parted after step 4"));
}

TEST_F(TrainResume, RefusesACheckpointThatIsNotThere) {
  TrainSettings s = Small("run");
  s.resume = true;
  EXPECT_THAT(Problem(s), HasSubstr("holds no checkpoint to go on from"));
}

TEST_F(TrainResume, LogsEveryStepOnce) {
  TrainSettings s = Stopped("run", 40, [](TrainSettings& first) { first.steps = 80; });
  const fs::path checkpoint = fs::path(s.out) / "checkpoint", kept = Path("kept");
  fs::copy(checkpoint, kept, fs::copy_options::recursive);
  ASSERT_TRUE(Train(s).ok());
  // Killed in a line of the log, long after the last save.
  fs::remove_all(checkpoint);
  fs::rename(kept, checkpoint);
  std::ofstream(fs::path(s.out) / "log.jsonl", std::ios::app) << "{\"balance\":0.1,\"ste";
  ASSERT_TRUE(Train(s).ok());
  std::multiset<int64_t> steps;
  for (const nlohmann::json& line : Log(s)) {
    if (line.contains("step")) steps.insert(line["step"].get<int64_t>());
  }
  EXPECT_EQ(steps, (std::multiset<int64_t>{20, 40, 60, 80}));
}

TEST_F(TrainResume, TakesUpAStoppedRunToTheSameBytes) {
  for (const int64_t asked : {1, 6, 7}) {
    TrainSettings whole = Small("whole" + std::to_string(asked));
    whole.expert_every = 2;
    whole.shared_steps = 4;
    ASSERT_TRUE(Train(whole).ok());
    TrainSettings s = whole;
    s.out = Path("stopped" + std::to_string(asked));
    int64_t steps = 0;
    const absl::Status stopped = Train(s, [&] { return ++steps >= asked; });
    ASSERT_TRUE(absl::IsCancelled(stopped)) << stopped;
    // Parted experts' gradients are gathered over two steps.
    EXPECT_THAT(std::string(stopped.message()),
                HasSubstr("saved after step " + std::to_string(asked == 7 ? 8 : asked)));
    s.resume = true;
    ASSERT_TRUE(Train(s).ok());
    EXPECT_EQ(Weights(s), Weights(whole));
  }
}

TEST_F(TrainResume, TakesUpRunsOfEveryKindOfRoutesToTheSameBytes) {
  for (const RouteFrom kind : {RouteFrom::kToken, RouteFrom::kAhead, RouteFrom::kAddress}) {
    const std::string name = RouteFromName(kind);
    const TrainSettings whole = SmallRouted("whole-" + name, kind);
    const absl::Status trained = Train(whole);
    ASSERT_TRUE(trained.ok()) << trained;
    for (const int64_t step : {2, 6, 8}) {
      SCOPED_TRACE(name + " " + std::to_string(step));
      ExpectResumes(SmallRouted(name + std::to_string(step), kind), step, whole);
    }
  }
}

// Each changes what is learnt, and none stands in the way of a resumed run's bytes.
TEST_F(TrainResume, TakesUpRunsWithEveryOptionOfPartedNeuronsToTheSameBytes) {
  const struct {
    const char* name;
    void (*set)(TrainSettings*);
  } options[] = {{"use-power", [](TrainSettings* s) { s->use_power = 0.5; }},
                 {"members", [](TrainSettings* s) { s->members = MemberRule::kSimilar; }},
                 {"stride", [](TrainSettings* s) { s->stride = Stride::kFibonacci; }},
                 {"untaken", [](TrainSettings* s) { s->untaken = true; }},
                 {"balance-soft", [](TrainSettings* s) { s->balance_soft = 2; }},
                 {"own-pull", [](TrainSettings* s) { s->own_pull = 20; }},
                 {"part-noise", [](TrainSettings* s) { s->part_noise = 0.02; }}};
  const TrainSettings plain = SmallRouted("plain", RouteFrom::kAddress);
  ASSERT_TRUE(Train(plain).ok());
  for (const auto& option : options) {
    SCOPED_TRACE(option.name);
    TrainSettings whole = SmallRouted(std::string("whole-") + option.name, RouteFrom::kAddress);
    option.set(&whole);
    const absl::Status trained = Train(whole);
    ASSERT_TRUE(trained.ok()) << trained;
    EXPECT_NE(Weights(whole), Weights(plain));
    TrainSettings s = whole;
    s.out = Path(std::string("cut-") + option.name);
    ExpectResumes(s, 8, whole);  // where own neurons part
  }
}

TEST_F(TrainResume, PartsNeuronsOfAKindLaterOrEarlierIfAsked) {
  TrainSettings whole = SmallRouted("whole", RouteFrom::kAddress);
  whole.part_own = 6;
  ASSERT_TRUE(Train(whole).ok());
  TrainSettings s = StopAt(SmallRouted("run", RouteFrom::kAddress), 6);
  s.part_own = 6;
  EXPECT_THAT(Problem(s), HasSubstr("--part-own 8, now 6"));
  s.chosen = {"part-own"};
  ASSERT_TRUE(Train(s).ok());
  EXPECT_EQ(Weights(s), Weights(whole));
  TrainSettings again = SmallRouted("again", RouteFrom::kAddress);
  again.stop_at = 6;
  ASSERT_TRUE(Train(again).ok());
  again.stop_at = 0;
  again.resume = true;
  again.part_member = 8;
  again.chosen = {"part-member"};
  EXPECT_THAT(Problem(again), HasSubstr("--part-member 8: the experts parted after step 4"));
}

TEST_F(TrainResume, RefusesADamagedMemberTable) {
  TrainSettings s = SmallRouted("run", RouteFrom::kAddress);
  s.stop_at = 4;
  ASSERT_TRUE(Train(s).ok());
  const std::string path = File(s, "model.safetensors").string();
  {
    auto file = SafetensorsFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    auto tensors = file->tensors();
    TensorView& members = tensors["layers.0.members"];
    std::vector<uint8_t> table(static_cast<size_t>(members.count()), 8);  // a region has eight
    members.data = table.data();
    ASSERT_TRUE(WriteSafetensors(path + ".new", tensors, file->metadata()).ok());
  }
  fs::rename(path + ".new", path);
  s.stop_at = 0;
  s.resume = true;
  EXPECT_THAT(Problem(s), HasSubstr("'layers.0.members' is damaged: member 8"));
}

TEST_F(TrainResume, BeginsOnlyWithWeightsOfTheSameTokenizer) {
  const TrainSettings first = Stopped("first", 4);
  TrainSettings next = Small("next");
  next.start = File(first, "start.safetensors").string();
  ChangeText();
  std::ofstream(Path("text.txt"), std::ios::app) << std::string(20000, 'q') + std::string(20000, 'z');
  EXPECT_THAT(Problem(next),
              HasSubstr("--start: the weights of " + next.start + " belong to another tokenizer"));
  next.tokenizer = File(first, "tokenizer.omni").string();
  const absl::Status begun = Train(next);
  EXPECT_TRUE(begun.ok()) << begun;
}

}  // namespace
}  // namespace omni::train
