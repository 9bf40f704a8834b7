// Tasks that learn adapters: what is handed in, told and given back.
#include "cluster/tasks/adapt_executor.h"

#include <atomic>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "cluster/tasks/task_messages.h"
#include "engine/around/adapter.h"
#include "omni/tasks/v1/tasks.pb.h"
#include "tests/cluster/tasks/recorded_attempt.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/unsure_model.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;
using Stop = TaskAttempt::Stop;

constexpr char kHash[] = "0123456789abcdef0123456789abcdef";

class Backend : public InferenceBackend {
 public:
  explicit Backend(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  absl::Status Serving() override {
    return serving ? absl::OkStatus() : absl::UnavailableError("another leads");
  }
  std::string Elsewhere() override { return ""; }
  absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest, SubmitOptions) override {
    return absl::InternalError("no session is wanted here");
  }
  const Tokenizer& tokenizer() override { return tokenizer_; }
  int64_t max_context() override { return 1000; }
  std::string model_hash() override { return kHash; }
  std::string node() override { return "n"; }

  std::atomic<bool> serving{true};

 private:
  const Tokenizer& tokenizer_;
};

class AdaptExecutorTest : public ::testing::Test {
 protected:
  LearnerPlace Place() {
    LearnerPlace place{model_.weights(), model_.experts(), tokenizer_, kHash,
                       [this] { return busy_.load(); }};
    place.gives_way = false;
    place.settings.own_tokens = 64;
    place.settings.passes = 1;
    place.settings.directions = 2;
    place.settings.most_drift = 10;
    return place;
  }
  static omni::tasks::v1::Work Sea(size_t bytes = 400) {
    omni::tasks::v1::Work work;
    work.mutable_adapt()->set_name("sea");
    work.mutable_adapt()->set_text(RepeatingText(bytes));
    return work;
  }
  static TaskAssignment Task(const omni::tasks::v1::Work& work, const std::string& caller = "") {
    TaskAssignment task;
    task.state.id = "t";
    task.state.caller = caller;
    task.work.input = work.SerializeAsString();
    return task;
  }

  TempDir dir_;
  const AdapterFiles files_{dir_ / "adapters"};
  UnsureModel model_{OddConfig(), 3};
  const Tokenizer tokenizer_ = SingleBytes();
  std::atomic<bool> busy_{false};
  Backend backend_{tokenizer_};
};

TEST_F(AdaptExecutorTest, TheResultSaysWhatWasLearnedAndUnderWhichName) {
  AdaptExecutor executor(backend_, Place(), files_);
  EXPECT_EQ(executor.offers()[0].offer.executor, "adapt");
  EXPECT_EQ(executor.slots(), 1);
  RecordedAttempt attempt(Task(Sea(), "anna"));
  const TaskOutcome outcome = executor.Run(attempt);
  ASSERT_EQ(outcome.kind, TaskOutcome::Kind::kSucceeded) << outcome.error << ": " << outcome.message;
  const auto result = nlohmann::json::parse(outcome.result);
  EXPECT_EQ(result["name"], "anna.sea");
  EXPECT_EQ(result["saved"], true);
  EXPECT_EQ(result["model_hash"], kHash);
  EXPECT_EQ(result["hash"], Adapter::Read(*files_.Load(result["name"].get<std::string>()))->Hash());
  EXPECT_GT(result["gain"], 0.01);
  EXPECT_EQ(result["waited_seconds"], 0);
  EXPECT_TRUE(Adapter::Read(*files_.Load("anna.sea")).ok());
  ASSERT_FALSE(attempt.told().empty());
  EXPECT_EQ(attempt.told()[0].what, "progress");
  EXPECT_THAT(attempt.told()[0].data, HasSubstr("of its time"));
}

TEST_F(AdaptExecutorTest, AnAttemptThatIsStoppedChangesNothing) {
  AdaptExecutor executor(backend_, Place(), files_);
  busy_ = true;
  for (const auto& [stop, kind] : {std::pair(Stop::kCancelled, TaskOutcome::Kind::kFailed),
                                   {Stop::kReturn, TaskOutcome::Kind::kReturned},
                                   {Stop::kTimeout, TaskOutcome::Kind::kFailed},
                                   {Stop::kNo, TaskOutcome::Kind::kReturned}}) {  // another node leads now
    RecordedAttempt attempt(Task(Sea()));
    const Stop why = stop;
    attempt.on_told = [&](const auto&) {
      if (why == Stop::kNo) backend_.serving = false;
      attempt.SetStop(why);
    };
    const TaskOutcome outcome = executor.Run(attempt);
    EXPECT_EQ(outcome.kind, kind);
    if (stop == Stop::kCancelled) {
      EXPECT_EQ(outcome.error, kErrorCancelled);
    }
    EXPECT_TRUE(files_.Names()->empty());
    backend_.serving = true;
  }
}

TEST_F(AdaptExecutorTest, WhatCannotBeDoneIsSaidAndNotTriedAgain) {
  AdaptExecutor executor(backend_, Place(), files_);
  const auto error = [&](const omni::tasks::v1::Work& work, const std::string& caller = "") {
    RecordedAttempt attempt(Task(work, caller));
    const TaskOutcome outcome = executor.Run(attempt);
    EXPECT_EQ(outcome.error, kErrorInvalid);
    return outcome.message;
  };
  EXPECT_THAT(error({}), HasSubstr("no adapter to learn"));
  EXPECT_THAT(error(Sea(100)), HasSubstr("at least 256"));
  omni::tasks::v1::Work work = Sea();
  work.mutable_adapt()->set_name("../sea");
  EXPECT_THAT(error(work), HasSubstr("letters, digits"));
  EXPECT_THAT(error(Sea(), "a@b"), HasSubstr("letters, digits"));
  work = Sea();
  work.mutable_adapt()->set_drift(0);  // nothing can be good enough, which is no failure
  RecordedAttempt strict(Task(work));
  const TaskOutcome nothing = executor.Run(strict);
  ASSERT_EQ(nothing.kind, TaskOutcome::Kind::kSucceeded) << nothing.message;
  EXPECT_EQ(nlohmann::json::parse(nothing.result)["saved"], false);
  EXPECT_TRUE(files_.Names()->empty());
  work.mutable_adapt()->set_more(true);
  EXPECT_THAT(error(work), HasSubstr("there is none at all"));
  AdaptExecutor homeless(backend_, Place(), absl::NotFoundError("neither variable is set"));
  RecordedAttempt attempt(Task(Sea()));
  EXPECT_THAT(homeless.Run(attempt).message, HasSubstr("neither variable"));
}

TEST(AdaptWork, IsCheckedWhenItIsHandedIn) {
  omni::tasks::v1::TaskSpec spec;
  omni::tasks::v1::AdaptWork& work = *spec.mutable_work()->mutable_adapt();
  const auto said = [&] { return std::string(ReadSpec(spec, "spec").status().message()); };
  EXPECT_THAT(said(), HasSubstr("spec.work.adapt.name"));
  work.set_name("sea");
  EXPECT_THAT(said(), HasSubstr("spec.work.adapt.text"));
  work.set_text("\xff\x00 text");
  const absl::StatusOr<TaskSpec> read = ReadSpec(spec, "spec");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->executor, "adapt");
  EXPECT_EQ(read->target, "");
  work.mutable_budget()->set_seconds(3601);
  EXPECT_THAT(said(), HasSubstr("spec.work.adapt.budget"));
  work.mutable_budget()->set_seconds(0);
  EXPECT_THAT(said(), HasSubstr("spec.work.adapt.budget"));
  work.mutable_budget()->set_seconds(3600);
  work.set_drift(1.5);
  EXPECT_THAT(said(), HasSubstr("spec.work.adapt.drift"));
  work.set_drift(0.5);
  EXPECT_TRUE(ReadSpec(spec, "spec").ok());
}

}  // namespace
}  // namespace omni::testing
