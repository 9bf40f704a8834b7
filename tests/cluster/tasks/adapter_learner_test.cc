// Adapters are learned beside sessions: these are given way to, say what they would have said, and find whole
// files.
#include "cluster/tasks/adapter_learner.h"

#include <atomic>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "actors/swarm.h"
#include "engine/around/adapter.h"
#include "engine/decode/cpu_decoder.h"
#include "tests/actors/actors_environment.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/unsure_model.h"

namespace omni {
namespace {

using omni::testing::ActorsEnvironment;
using omni::testing::RandomTokens;
using omni::testing::RepeatingText;
using omni::testing::SingleBytes;
using omni::testing::TempDir;
using omni::testing::UnsureModel;
using std::chrono::milliseconds;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kHash[] = "0123456789abcdef0123456789abcdef";

class AdapterLearnerTest : public ::testing::Test {
 protected:
  LearnerPlace Place() {
    LearnerPlace place{model_.weights(), model_.experts(), tokenizer_, kHash,
                       [this] { return busy_.load(); }};
    place.gives_way = false;  // else a machine with much else to do would never come to it
    place.settings.own_tokens = 64;
    place.settings.passes = 2;
    place.settings.directions = 2;
    place.settings.most_drift = drift_;
    return place;
  }
  absl::StatusOr<AdapterLearner::Learned> Learn(const LearnRequest& request) {
    AdapterLearner learner(Place(), files_);
    return learner.Learn(
        request, [this] { return stopped_.load(); },
        [this](const std::string& text) {
          const std::lock_guard lock(mutex_);
          told_.push_back(text);
        });
  }
  std::vector<std::string> Told() {
    const std::lock_guard lock(mutex_);
    return told_;
  }
  void WaitToBeTold(const std::string& text) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < until) {
      for (const std::string& told : Told()) {
        if (told == text) return;
      }
      std::this_thread::sleep_for(milliseconds(2));
    }
    ADD_FAILURE() << "it never said: " << text;
  }

  TempDir dir_;
  const AdapterFiles files_{dir_ / "adapters"};
  UnsureModel model_{omni::testing::OddConfig(), 3};
  const Tokenizer tokenizer_ = SingleBytes();
  double drift_ = 10;  // a model of random weights says nothing that it could hold on to
  std::atomic<bool> busy_{false}, stopped_{false};
  std::mutex mutex_;
  std::vector<std::string> told_;
};

TEST_F(AdapterLearnerTest, WhatIsBetterReplacesTheFileAndWhatIsNotLeavesItsBytes) {
  auto learned = Learn({"", "sea", RepeatingText(400)});
  ASSERT_TRUE(learned.ok()) << learned.status();
  EXPECT_TRUE(learned->report.kept);
  EXPECT_EQ(learned->name, "sea");
  EXPECT_EQ(learned->waited.count(), 0);
  const std::string first = *files_.Load("sea");
  const absl::StatusOr<Adapter> adapter = Adapter::Read(first);
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_TRUE(adapter->Fits(omni::testing::OddConfig(), kHash).ok());
  EXPECT_LT(adapter->origin().nats, adapter->origin().nats_before);

  LearnRequest more{"", "sea", RepeatingText(400)};
  more.more = true;
  learned = Learn(more);
  ASSERT_TRUE(learned.ok() && learned->report.kept) << learned.status();
  const std::string second = *files_.Load("sea");
  EXPECT_NE(second, first);
  EXPECT_LT(Adapter::Read(second)->origin().nats, adapter->origin().nats);

  drift_ = 0;  // nothing can be good enough
  for (bool go_on : {true, false}) {
    more.more = go_on;
    learned = Learn(more);
    ASSERT_TRUE(learned.ok()) << learned.status();
    EXPECT_FALSE(learned->report.kept);
    EXPECT_EQ(*files_.Load("sea"), second);
  }
  more.name = "none";
  ASSERT_TRUE(Learn(more).ok());
  EXPECT_THAT(*files_.Names(), ElementsAre("sea"));
}

TEST_F(AdapterLearnerTest, WaitsWhileOthersAreAnsweredAndPaysForItsOwnTimeAlone) {
  busy_ = true;
  LearnRequest request{"", "sea", RepeatingText(400)};
  request.budget = std::chrono::minutes(10);
  absl::StatusOr<AdapterLearner::Learned> learned = absl::UnknownError("");
  std::thread thread([&] { learned = Learn(request); });
  WaitToBeTold("waits while others are answered");
  std::this_thread::sleep_for(milliseconds(400));
  EXPECT_THAT(*files_.Names(), IsEmpty());
  EXPECT_THAT(Told(), Not(Contains(HasSubstr("of its time"))));
  busy_ = false;
  thread.join();
  ASSERT_TRUE(learned.ok()) << learned.status();
  EXPECT_TRUE(learned->report.kept);
  EXPECT_GE(learned->waited.count(), 380);
  EXPECT_THAT(Told(), Contains(HasSubstr("of its time")));

  // What was waited does not shorten the learning: the bytes are those of one that never waited.
  const std::string waited = *files_.Load("sea");
  request.name = "lake";
  ASSERT_TRUE(Learn(request).ok());
  EXPECT_EQ(*files_.Load("lake"), waited);
}

TEST_F(AdapterLearnerTest, StopsWhereItIsAndLeavesWhatWasThere) {
  ASSERT_TRUE(Learn({"", "sea", RepeatingText(400)}).ok());
  const std::string before = *files_.Load("sea");
  for (bool busy : {true, false}) {
    busy_ = busy;
    stopped_ = false;
    absl::StatusOr<AdapterLearner::Learned> learned = absl::UnknownError("");
    told_.clear();
    std::thread thread([&] { learned = Learn({"", "sea", RepeatingText(60'000)}); });
    WaitToBeTold(busy ? "waits while others are answered" : "0 % of its time is used");
    stopped_ = true;
    thread.join();
    EXPECT_TRUE(absl::IsCancelled(learned.status())) << learned.status();
    EXPECT_EQ(*files_.Load("sea"), before);
  }
}

TEST_F(AdapterLearnerTest, ACallersAdaptersAreHisOwn) {
  EXPECT_EQ(*AdapterNameOf("", "letters.2"), "letters.2");
  EXPECT_EQ(*AdapterNameOf("anna", "letters"), "anna.letters");
  EXPECT_EQ(*AdapterNameOf("anna.b", "c"), "anna.b.c");
  // Else anna could replace what is anna.b's.
  EXPECT_THAT(AdapterNameOf("anna", "b.c").status().message(), HasSubstr("has a '.'"));
  EXPECT_TRUE(absl::IsInvalidArgument(AdapterNameOf("", "../x").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(AdapterNameOf("a@b", "x").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(AdapterNameOf(std::string(64, 'a'), "x").status()));
}

class Streamed : public ExpertSource {
 public:
  absl::StatusOr<ExpertTiles> Acquire(LayerId, ExpertId) override { return absl::InternalError("asked"); }
  bool resident() const override { return false; }
};

TEST_F(AdapterLearnerTest, RefusesWhatItCannotDo) {
  const auto never = [] { return false; };
  const auto nothing = [](const std::string&) {};
  Streamed streamed;
  AdapterLearner of_streamed({model_.weights(), streamed, tokenizer_, kHash, never}, files_);
  EXPECT_THAT(of_streamed.Learn({"", "sea", RepeatingText(400)}, never, nothing).status().message(),
              HasSubstr("not whole in memory"));
  EXPECT_THAT(Learn({"", "sea", "short"}).status().message(), HasSubstr("at least 256"));
  LearnRequest request{"", "sea", RepeatingText(400)};
  request.more = true;
  EXPECT_TRUE(absl::IsNotFound(Learn(request).status()));
  Adapter other(omni::testing::OddConfig(), {}, "another");
  ASSERT_TRUE(files_.Save("sea", other.Write()).ok());
  EXPECT_THAT(Learn(request).status().message(), HasSubstr("another"));
  request.more = false;
  request.budget = milliseconds(0);
  EXPECT_TRUE(absl::IsInvalidArgument(Learn(request).status()));
  request.budget = LearnRequest::kLongest + milliseconds(1);
  EXPECT_TRUE(absl::IsInvalidArgument(Learn(request).status()));
}

// Sessions decode, others read the adapter and decode with it, and all the while it is learned and replaced:
// under TSan nothing races, and every session says what it says alone.
TEST_F(AdapterLearnerTest, SessionsDecodeWhileItLearnsAndReplaces) {
  constexpr int kSessions = 3, kReplacements = 3;
  SwarmOptions options;
  options.threads = 2;
  auto swarm =
      Swarm::Start(ActorsEnvironment::Actors(), model_.weights(), model_.experts(), tokenizer_, options);
  ASSERT_TRUE(swarm.ok()) << swarm.status();
  const auto say = [&](int session) {
    GenerateRequest request;
    request.prompt = RandomTokens(12, model_.weights().config.vocab, 50 + static_cast<uint64_t>(session));
    request.max_tokens = 40;
    request.sampler.seed = static_cast<uint64_t>(session);
    request.stop_at_end_of_text = false;
    const absl::StatusOr<GenerateResult> result = (*swarm)->Generate(request, nullptr);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->tokens : std::vector<TokenId>();
  };
  std::vector<std::vector<TokenId>> alone;
  for (int i = 0; i < kSessions; ++i) alone.push_back(say(i));

  std::atomic<bool> over{false};
  std::atomic<int> said{0}, used{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kSessions; ++i) {
    threads.emplace_back([&, i] {
      while (!over) {
        EXPECT_EQ(say(i), alone[static_cast<size_t>(i)]);
        ++said;
      }
    });
  }
  threads.emplace_back([&] {
    WorkerPool pool(1);
    CpuDecoder decoder(model_.weights(), pool);
    while (!over) {
      const absl::StatusOr<std::string> bytes = files_.Load("sea");
      if (!bytes.ok()) continue;  // not yet
      absl::StatusOr<Adapter> read = Adapter::Read(*bytes);
      ASSERT_TRUE(read.ok()) << "half a file was read: " << read.status();
      const ReadyAdapter ready(model_.weights().config, *std::move(read));
      SessionState state(model_.weights().config);
      std::vector<BatchRow> rows;
      for (TokenId token : RandomTokens(6, model_.weights().config.vocab, 9))
        rows.push_back({&state, token, true, ready.policy(), false, false, &ready.rows()});
      ASSERT_TRUE(RunBatch(decoder, model_.weights().config, model_.experts(), pool, rows).ok());
      ++used;
    }
  });
  LearnRequest request{"", "sea", RepeatingText(300)};
  for (int i = 0; i < kReplacements; ++i) {
    const auto learned = Learn(request);
    EXPECT_TRUE(learned.ok() && learned->report.kept) << learned.status();
    while (used <= i) std::this_thread::yield();
  }
  over = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(said, kSessions);
  EXPECT_GE(used, kReplacements);
}

}  // namespace
}  // namespace omni
