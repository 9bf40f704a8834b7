#include "cluster/session_retention.h"

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cluster/session_log_fixture.h"

namespace omni {
namespace {

using namespace std::chrono_literals;
using testing::Calls;
using ::testing::ElementsAre;
using testing::FakeStore;
using ::testing::IsEmpty;
using testing::Over;
using testing::StoreLog;
using testing::Tokens;

// What gives answers, in one process's life.
class FakeOwner : public SessionRetention::Owner {
 public:
  bool InUse(const std::string& id) override { return in_use.contains(id); }
  void Post(std::function<void()> f) override { posted.push_back(std::move(f)); }

  std::set<std::string> in_use;
  std::deque<std::function<void()>> posted;
};

class SessionRetentionTest : public ::testing::TestWithParam<Over> {
 protected:
  SessionRetentionTest() { Restart(); }

  void Restart() {
    retention_ = nullptr;
    owner_ = FakeOwner();
    test_->Reopen();
    retention_ =
        std::make_unique<SessionRetention>(RetentionOptions{.keep = 10min}, test_->log(), forgotten_, owner_);
  }
  bool Step() {
    test_->Run();
    if (owner_.posted.empty()) return false;
    const auto f = std::move(owner_.posted.front());
    owner_.posted.pop_front();
    f();
    return true;
  }
  void Run() {
    while (Step()) {
    }
  }
  void Advance(std::chrono::seconds time, std::chrono::seconds step = 1s) {
    for (; time > 0s; time -= step) {
      now_ += step;
      retention_->OnTick(now_);
      Run();
    }
  }
  void Begin(const std::string& id, const std::string& finished = "") {
    ASSERT_TRUE(calls_.Begin(id, "r").ok());
    ASSERT_TRUE(calls_.Append({{id, 0, Tokens(1, 2), finished}}).ok());
  }
  bool Knows(const std::string& id) { return calls_.Find(id).ok(); }

  std::unique_ptr<testing::LogUnderTest> test_ = testing::MakeLogUnderTest(GetParam());
  Calls calls_{*test_};
  FakeOwner owner_;
  Counter forgotten_;
  std::unique_ptr<SessionRetention> retention_;
  SessionRetention::Clock::time_point now_{1h};
};

INSTANTIATE_TEST_SUITE_P(Logs, SessionRetentionTest, ::testing::Values(Over::kDatabase, Over::kStore),
                         [](const auto& info) { return testing::NameOf(info.param); });

TEST_P(SessionRetentionTest, WhatNobodyTakesUpIsForgottenAfterItsTimeAndNotBefore) {
  Begin("whole", "stop");
  Begin("open");
  Advance(10min - 1s);
  EXPECT_TRUE(Knows("whole"));
  EXPECT_TRUE(Knows("open"));
  Advance(2min);
  EXPECT_FALSE(Knows("whole"));
  EXPECT_FALSE(Knows("open"));
  EXPECT_THAT(test_->Keys(), ElementsAre("kept/now")) << "nothing is left of them";
  EXPECT_EQ(forgotten_.Get(), 2);
}

TEST_P(SessionRetentionTest, WhatIsInUseIsKeptAndItsTimeBeginsWhenItIsLetGoOf) {
  Begin("s");
  owner_.in_use = {"s"};
  Advance(1h);
  EXPECT_TRUE(Knows("s"));
  owner_.in_use = {};
  Advance(8min);
  // Taken up in between, and let go of before anybody looked.
  EXPECT_TRUE(calls_.Touch("s").ok());
  Advance(9min);
  EXPECT_TRUE(Knows("s"));
  // Somebody is there when it would have been its time.
  owner_.in_use = {"s"};
  Advance(5min);
  owner_.in_use = {};
  Advance(9min);
  EXPECT_TRUE(Knows("s"));
  Advance(3min);
  EXPECT_FALSE(Knows("s"));
}

TEST_P(SessionRetentionTest, TimesSurviveRestartsAndStandStillMeanwhile) {
  Begin("s", "length");
  for (int i = 0; i < 5; ++i) {
    Advance(100s);
    Restart();
    now_ += 24h;  // switched off
  }
  EXPECT_TRUE(Knows("s")) << "500 s are less than ten minutes";
  for (int i = 0; i < 5; ++i) {
    Advance(100s);
    Restart();
    now_ -= 24h;  // a clock is another after a restart
  }
  EXPECT_FALSE(Knows("s"));
}

TEST_P(SessionRetentionTest, ATimeInWhichItWasStoppedDoesNotCount) {
  Begin("s", "length");
  Advance(2min);
  now_ += 24h;
  retention_->OnTick(now_);
  Run();
  EXPECT_TRUE(Knows("s"));
  Advance(7min - 1s);
  EXPECT_TRUE(Knows("s"));
  Advance(3min);
  EXPECT_FALSE(Knows("s"));
}

TEST_P(SessionRetentionTest, ManyAreForgottenWithoutOneBeingMissed) {
  for (int i = 0; i < 350; ++i) Begin(absl::StrCat("s", i), i % 2 == 0 ? "stop" : "");
  Advance(9min);
  EXPECT_EQ(forgotten_.Get(), 0);
  Advance(3min);
  EXPECT_EQ(forgotten_.Get(), 350);
  EXPECT_THAT(test_->Keys(), ElementsAre("kept/now"));
}

TEST_P(SessionRetentionTest, WhoComesWhileItIsBeingForgottenWaitsUntilItIsGone) {
  Begin("s", "stop");
  Begin("t", "stop");
  Advance(10min);
  // To the moment when one of them is being forgotten.
  std::vector<std::string> begun;
  std::string going;
  for (int i = 0; i < 100 && going.empty(); ++i) {
    now_ += 1s;
    retention_->OnTick(now_);
    while (going.empty() && Step()) {
      for (const char* id : {"s", "t"}) {
        if (going.empty() && !retention_->MayBegin(id, [&begun, id] { begun.push_back(id); })) going = id;
      }
    }
  }
  ASSERT_NE(going, "");
  const std::string other = going == "s" ? "t" : "s";
  owner_.in_use = {other};
  EXPECT_TRUE(retention_->MayBegin(other, [] { FAIL() << "it need not wait"; }));
  EXPECT_THAT(begun, IsEmpty());
  Run();
  EXPECT_THAT(begun, ElementsAre(going));
  EXPECT_FALSE(Knows(going));
  EXPECT_TRUE(Knows(other)) << "it was taken up in time";
}

TEST_P(SessionRetentionTest, WhoStopsItNeedNotWaitUntilAllAreForgotten) {
  for (int i = 0; i < 20; ++i) Begin(absl::StrCat("s", i), "stop");
  Advance(10min);
  while (forgotten_.Get() == 0) {
    now_ += 1s;
    retention_->OnTick(now_);
    while (forgotten_.Get() == 0 && Step()) {
    }
  }
  retention_->Stop();
  Run();
  EXPECT_LE(forgotten_.Get(), 2);
  Advance(1h, 1min);
  EXPECT_LE(forgotten_.Get(), 2);
}

TEST(StoreRetentionTest, AStoreThatFailsLosesNothingAndIsAskedAgain) {
  StoreLog test;
  Calls calls(test);
  FakeOwner owner;
  Counter forgotten;
  SessionRetention retention({.keep = 10min}, test.log(), forgotten, owner);
  ASSERT_TRUE(calls.Begin("s", "r").ok());
  for (int64_t i = 0; i < 250; ++i)
    ASSERT_TRUE(calls.Append({{"s", i, Tokens(static_cast<int32_t>(i), 1), i == 249 ? "stop" : ""}}).ok());
  int calls_made = 0;
  test.store.fate = [&] {
    return ++calls_made % 3 == 0 ? FakeStore::Fate::kNeverArrives : FakeStore::Fate::kDone;
  };
  SessionRetention::Clock::time_point now(1h);
  const auto advance = [&](std::chrono::seconds time) {
    for (; time > 0s; time -= 1s) {
      now += 1s;
      retention.OnTick(now);
      do {
        test.Run();
        for (auto& f : std::exchange(owner.posted, {})) f();
      } while (test.store.on_the_way() > 0 || !owner.posted.empty());
    }
  };
  advance(10min);
  test.store.fate = nullptr;
  EXPECT_TRUE(calls.Find("s").ok());
  test.store.fate = [&] {
    return ++calls_made % 3 == 0 ? FakeStore::Fate::kNeverArrives : FakeStore::Fate::kDone;
  };
  advance(30min);
  test.store.fate = nullptr;
  advance(1min);
  EXPECT_EQ(forgotten.Get(), 1);
  EXPECT_THAT(test.Keys(), ElementsAre("kept/now"));
}

}  // namespace
}  // namespace omni
