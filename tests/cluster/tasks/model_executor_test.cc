// A task's text is that of a task that nothing happened to, wherever its attempts were cut.
#include "cluster/tasks/model_executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/node.h"
#include "omni/tasks/v1/tasks.pb.h"
#include "tests/cluster/tasks/recorded_attempt.h"
#include "tests/store/model/streamed_fixture.h"
#include "tests/testing/node_backend.h"

namespace omni::testing {
namespace {

using ::testing::HasSubstr;
using Stop = TaskAttempt::Stop;

// A node, and what a test wants to be wrong with it.
class Backend : public InferenceBackend {
 public:
  explicit Backend(Node& node) : node_(node) {}
  absl::Status Serving() override { return serving; }
  std::string Elsewhere() override { return ""; }
  absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest request,
                                                        SubmitOptions options) override {
    requests.push_back(request);
    if (busy > 0 && busy-- > 0) return absl::ResourceExhaustedError("too many wait");
    return node_.Submit(std::move(request), std::move(options));
  }
  const Tokenizer& tokenizer() override { return node_.tokenizer(); }
  int64_t max_context() override { return node_.max_context(); }
  std::string model_hash() override { return hash.empty() ? node_.model_hash() : hash; }
  std::string node() override { return node_.node(); }

  absl::Status serving;
  std::string hash;
  int busy = 0;
  std::vector<GenerateRequest> requests;

 private:
  NodeBackend node_;
};

class ModelExecutorTest : public StreamedTest {
 protected:
  void SetUp() override {
    Pack(StreamedConfig());
    NodeOptions options;
    options.model = temp_ / "m";
    options.swarm.threads = 1;
    node_ = Node::Start(nullptr, options).value();
    backend_ = std::make_unique<Backend>(*node_);
    Make({});
  }
  void Make(ModelExecutorOptions options) {
    options.model_name = "small";
    executor_ = std::make_unique<ModelExecutor>(*backend_, options);
  }
  static omni::tasks::v1::Work Sea(int tokens) {
    omni::tasks::v1::Work work;
    work.mutable_model()->set_prompt("the sea");
    work.mutable_model()->set_max_tokens(static_cast<uint64_t>(tokens));
    work.mutable_model()->set_seed(7);
    return work;
  }
  static omni::tasks::v1::Work Endless() {
    omni::tasks::v1::Work work = Sea(900'000);
    work.mutable_model()->set_ignore_end_of_text(true);
    return work;
  }
  static TaskAssignment Task(const omni::tasks::v1::Work& work, const std::string& checkpoint = "") {
    TaskAssignment task;
    task.state.id = "t";
    task.state.caller = "anna";
    task.work.input = work.SerializeAsString();
    task.checkpoint = checkpoint;
    task.points = checkpoint.empty() ? 0 : 1;
    return task;
  }
  std::string MustRun(const omni::tasks::v1::Work& work) {
    RecordedAttempt attempt(Task(work));
    const TaskOutcome outcome = executor_->Run(attempt);
    EXPECT_EQ(outcome.kind, TaskOutcome::Kind::kSucceeded) << outcome.error << ": " << outcome.message;
    EXPECT_EQ(attempt.Stream("text"), outcome.result);
    return outcome.result;
  }
  TaskOutcome RunOnce(const omni::tasks::v1::Work& work) {
    RecordedAttempt attempt(Task(work));
    return executor_->Run(attempt);
  }
  // The text of attempts of which each is cut after `tokens` more.
  std::string RunInPieces(const omni::tasks::v1::Work& work, int tokens, Stop why) {
    std::string text, checkpoint;
    for (int i = 0; i < 1000; ++i) {
      RecordedAttempt attempt(Task(work, checkpoint));
      attempt.on_told = [&](const std::vector<RecordedAttempt::Told>& told) {
        int points = 0;
        for (const auto& one : told) points += one.what == "point";
        if (points == tokens + (checkpoint.empty() ? 1 : 0)) attempt.SetStop(why);
      };
      const TaskOutcome outcome = executor_->Run(attempt);
      text += attempt.Stream("text");
      if (outcome.kind == TaskOutcome::Kind::kSucceeded) {
        EXPECT_EQ(outcome.result, text);
        return text;
      }
      checkpoint = attempt.checkpoint();
    }
    ADD_FAILURE() << "it never ended";
    return text;
  }

  std::unique_ptr<Node> node_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<ModelExecutor> executor_;
};

TEST_F(ModelExecutorTest, TheResultIsTheWholeTextAndTheCallersLaneIsUsed) {
  const std::string text = MustRun(Sea(40));
  EXPECT_FALSE(text.empty());
  EXPECT_EQ(MustRun(Sea(40)), text);
  EXPECT_EQ(backend_->requests[0].caller, "anna");
  omni::tasks::v1::Work other = Sea(40);
  other.mutable_model()->set_seed(8);
  EXPECT_NE(MustRun(other), text);
  other = Sea(40);
  other.mutable_model()->set_temperature(0);
  EXPECT_NE(MustRun(other), text);
}

TEST_F(ModelExecutorTest, AttemptsThatAreCutAnywhereSayTogetherWhatOneSays) {
  omni::tasks::v1::Work work = Sea(30);
  work.mutable_model()->set_ignore_end_of_text(true);
  const std::string text = MustRun(work);
  EXPECT_EQ(RunInPieces(work, 1, Stop::kReturn), text);
  EXPECT_EQ(RunInPieces(work, 7, Stop::kLost), text);
  // A stop string, begun in one attempt and whole in another.
  const auto ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  size_t at = text.size() / 3;
  while (at + 2 < text.size() && !(ascii(text[at]) && ascii(text[at + 1]))) ++at;
  ASSERT_LT(at + 2, text.size());
  work.mutable_model()->add_stops(text.substr(at, 2));
  const std::string stopped = MustRun(work);
  EXPECT_LT(stopped.size(), text.size());
  EXPECT_EQ(RunInPieces(work, 1, Stop::kReturn), stopped);
  EXPECT_EQ(RunInPieces(work, 2, Stop::kLost), stopped);
}

TEST_F(ModelExecutorTest, OneWhoseTokensAreAllThereOnlyEnds) {
  const omni::tasks::v1::Work work = Sea(10);
  RecordedAttempt whole(Task(work));
  const TaskOutcome first = executor_->Run(whole);
  const size_t asked = backend_->requests.size();
  RecordedAttempt again(Task(work, whole.checkpoint()));
  EXPECT_EQ(executor_->Run(again).result, first.result);
  EXPECT_EQ(backend_->requests.size(), asked) << "nothing is computed";
}

TEST_F(ModelExecutorTest, StoppingItIsATokensMatterAndWhySaysWhatItComesTo) {
  for (const Stop why : {Stop::kCancelled, Stop::kTimeout, Stop::kReturn}) {
    RecordedAttempt attempt(Task(Endless()));
    attempt.on_told = [&](const std::vector<RecordedAttempt::Told>& told) {
      if (told.size() == 20) attempt.SetStop(why);
    };
    const TaskOutcome outcome = executor_->Run(attempt);
    EXPECT_EQ(outcome.kind, why == Stop::kReturn ? TaskOutcome::Kind::kReturned : TaskOutcome::Kind::kFailed);
    EXPECT_EQ(outcome.error, why == Stop::kReturn ? "" : why == Stop::kTimeout ? "timeout" : "cancelled");
    EXPECT_LT(attempt.told().size(), 2000u);
  }
  RecordedAttempt before(Task(Endless()));
  before.SetStop(Stop::kCancelled);
  EXPECT_EQ(executor_->Run(before).error, "cancelled");
}

TEST_F(ModelExecutorTest, ASwarmThatIsFullIsWaitedFor) {
  const std::string text = MustRun(Sea(5));
  backend_->busy = 2;
  EXPECT_EQ(MustRun(Sea(5)), text);
  backend_->busy = 1 << 20;
  RecordedAttempt attempt(Task(Sea(5)));
  attempt.SetStop(Stop::kCancelled);
  EXPECT_EQ(executor_->Run(attempt).error, "cancelled");
}

TEST_F(ModelExecutorTest, WhatCannotBeDoneIsSaid) {
  omni::tasks::v1::Work work;
  EXPECT_EQ(RunOnce(work).error, "invalid");
  work = Sea(5);
  work.mutable_model()->set_model("large");
  EXPECT_THAT(RunOnce(work).message, HasSubstr("'large'"));
  work = Sea(5);
  work.mutable_model()->set_temperature(-1);
  EXPECT_EQ(RunOnce(work).error, "invalid");
  work = Sea(5);
  for (int i = 0; i < 65; ++i) work.mutable_model()->add_stops("x");
  EXPECT_EQ(RunOnce(work).error, "invalid");
  backend_->serving = absl::UnavailableError("another leads");
  EXPECT_EQ(RunOnce(Sea(5)).error, "unavailable");
  backend_->serving = absl::OkStatus();
  // A text that one model began, another does not go on with.
  RecordedAttempt begun(Task(Sea(5)));
  ASSERT_EQ(executor_->Run(begun).kind, TaskOutcome::Kind::kSucceeded);
  backend_->hash = "another";
  RecordedAttempt again(Task(Sea(5), begun.checkpoint()));
  EXPECT_EQ(executor_->Run(again).error, "model-changed");
}

TEST_F(ModelExecutorTest, ATextThatAResultCannotHoldEndsThere) {
  ModelExecutorOptions options;
  options.limits.result_bytes = 1400;
  Make(options);
  const omni::tasks::v1::Work work = Endless();
  const std::string text = MustRun(work);
  EXPECT_GT(text.size(), 100u);
  EXPECT_LE(text.size(), 1400u);
  EXPECT_EQ(RunInPieces(work, 50, Stop::kLost), text);
}

}  // namespace
}  // namespace omni::testing
