#include "cluster/leadership.h"

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/fake_store.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using testing::FakeStore;
using ::testing::IsEmpty;

using Time = std::chrono::steady_clock::time_point;

// One that would lead, and what it was told.
class Candidate : public Leadership::Owner {
 public:
  Candidate(std::string name, CoordinationStore& store, bool exclusive = false, std::string token = "") {
    LeadershipOptions options;
    options.self = {{name}, name + ":1", std::move(token)};
    options.exclusive = exclusive;
    leadership = std::make_unique<Leadership>(options, store, *this);
  }
  void OnElected(uint64_t term) override { terms.push_back(term); }
  void OnLost(const absl::Status& reason) override { lost.emplace_back(reason.message()); }
  void OnOther(const LeaderRecord& leader) override { others.push_back(leader.address); }
  void Post(std::function<void()> f) override { posted.push_back(std::move(f)); }

  // On its thread.
  void RunPosted() {
    while (!posted.empty()) {
      const std::function<void()> f = std::move(posted.front());
      posted.pop_front();
      f();
    }
  }

  std::unique_ptr<Leadership> leadership;
  std::vector<uint64_t> terms;
  std::vector<std::string> lost, others;
  std::deque<std::function<void()>> posted;
};

class LeadershipTest : public ::testing::Test {
 protected:
  // Lets all that can happen happen, at one moment.
  void Run() {
    for (int i = 0; i < 20; ++i) {
      store_.SetNow(now_);
      store_.Run();
      for (Candidate* c : {&a_, &b_}) c->RunPosted();
    }
  }
  // In steps in which both tick.
  void Advance(std::chrono::milliseconds time, bool run = true) {
    for (; time > 0ms; time -= 50ms) {
      now_ += 50ms;
      store_.SetNow(now_);
      (void)store_.state().Settle(now_);
      for (Candidate* c : {&a_, &b_}) {
        if (c->leadership != nullptr) c->leadership->OnTick(now_);
      }
      if (run) Run();
    }
  }
  void StartBoth() {
    a_.leadership->Start(now_);
    Run();
    b_.leadership->Start(now_);
    Run();
  }
  std::string Leader() {
    const auto records = store_.state().Read(kLeaderKey, now_);
    if (!records.ok() || records->records.empty()) return "";
    return ParseLeaderRecord(records->records[0].value)->node.value;
  }

  Time now_ = Time(1h);
  FakeStore store_{now_};
  Candidate a_{"a", store_}, b_{"b", store_};
};

TEST_F(LeadershipTest, TheFirstLeadsAndTheOtherKnowsIt) {
  StartBoth();
  EXPECT_TRUE(a_.leadership->leads());
  EXPECT_FALSE(b_.leadership->leads());
  EXPECT_EQ(Leader(), "a");
  EXPECT_THAT(b_.others, ElementsAre("a:1"));
  EXPECT_THAT(a_.others, IsEmpty());
  const auto records = store_.state().Read(kLeaderKey, now_);
  EXPECT_THAT(a_.terms, ElementsAre(static_cast<uint64_t>(records->records.at(0).changed)))
      << "the term is the leader record's revision";
  EXPECT_NE(records->records[0].lease, 0);
}

TEST_F(LeadershipTest, ItLeadsAsLongAsItKeepsItsLease) {
  StartBoth();
  Advance(60s);
  EXPECT_TRUE(a_.leadership->leads());
  EXPECT_EQ(a_.terms.size(), 1u);
  EXPECT_THAT(b_.terms, IsEmpty());
  EXPECT_THAT(a_.lost, IsEmpty());
  EXPECT_EQ(b_.others.size(), 1u);
}

TEST_F(LeadershipTest, WhenTheLeaderEndsTheOtherLeadsAtTheEndOfTheLease) {
  StartBoth();
  Advance(1s);
  a_.leadership = nullptr;
  Advance(1s);
  EXPECT_FALSE(b_.leadership->leads()) << "the lease is not over yet";
  Advance(1s);
  EXPECT_TRUE(b_.leadership->leads());
  EXPECT_GT(b_.leadership->term(), a_.terms[0]);
  EXPECT_EQ(Leader(), "b");
}

TEST_F(LeadershipTest, WhoResignsHandsOverAtOnce) {
  StartBoth();
  a_.leadership->Resign();
  EXPECT_FALSE(a_.leadership->leads());
  Run();
  EXPECT_TRUE(b_.leadership->leads());
  // And does not stand again.
  Advance(10s);
  EXPECT_THAT(a_.lost, IsEmpty());
  EXPECT_EQ(a_.terms.size(), 1u);
}

TEST_F(LeadershipTest, WhoResignsWhileItIsBeingElectedLeavesNoLeaseBehind) {
  a_.leadership->Start(now_);
  // To the moment when its record stands, and it has not heard of it.
  for (int i = 0; i < 2; ++i) {
    store_.Arrive();
    store_.ComeBack();
    a_.RunPosted();
  }
  store_.Arrive();
  EXPECT_EQ(Leader(), "a");
  a_.leadership->Resign();
  Run();
  EXPECT_THAT(a_.terms, IsEmpty());
  b_.leadership->Start(now_);
  Run();
  EXPECT_TRUE(b_.leadership->leads());
}

TEST_F(LeadershipTest, ALeaderThatCannotReachTheStoreStopsBeforeItsLeaseEnds) {
  StartBoth();
  const Time elected = now_;
  store_.fate = [] { return FakeStore::Fate::kNeverArrives; };
  while (a_.leadership->leads()) Advance(50ms);
  EXPECT_LE(now_ - elected, 1500ms - 300ms + 50ms);
  EXPECT_EQ(Leader(), "a") << "as far as the store knows";
  ASSERT_EQ(a_.lost.size(), 1u);
  EXPECT_FALSE(b_.leadership->leads());
  store_.fate = nullptr;
  Advance(5s);
  EXPECT_NE(a_.leadership->leads(), b_.leadership->leads());
}

TEST_F(LeadershipTest, AKeptLeaseCountsFromWhenItWasAskedFor) {
  StartBoth();
  Advance(350ms);
  // Asked for now, answered much later.
  while (store_.on_the_way() == 0) {
    now_ += 50ms;
    a_.leadership->OnTick(now_);
  }
  const Time asked = now_;
  now_ += 600ms;
  store_.Run();
  a_.RunPosted();
  store_.fate = [] { return FakeStore::Fate::kNeverArrives; };
  while (a_.leadership->leads()) Advance(50ms);
  EXPECT_LE(now_ - asked, 1500ms - 300ms + 50ms);
}

TEST_F(LeadershipTest, ALeaseThatTheStoreHasEndedEndsTheLeadAtOnce) {
  StartBoth();
  const auto records = store_.state().Read(kLeaderKey, now_);
  (void)store_.state().RevokeLease(records->records.at(0).lease, now_);
  Advance(500ms);
  EXPECT_EQ(a_.lost.size(), 1u);
  EXPECT_TRUE(b_.leadership->leads());
  EXPECT_FALSE(a_.leadership->leads());
}

TEST_F(LeadershipTest, AStoreOfItsOwnIsTakenOverAtOnce) {
  a_.leadership->Start(now_);
  Run();
  a_.leadership = nullptr;  // as if it had been killed: its record stands, its lease goes on
  Candidate again("a", store_, /*exclusive=*/true);
  again.leadership->Start(now_);
  for (int i = 0; i < 5; ++i) {
    store_.Run();
    again.RunPosted();
  }
  EXPECT_TRUE(again.leadership->leads());
  EXPECT_GT(again.terms.at(0), a_.terms.at(0));
}

// Both wait for a candidate that has been killed.
TEST_F(LeadershipTest, WhoIsStartedAgainByTheSameFolderTakesItsOwnLeaseOver) {
  Candidate killed("c", store_, false, "folder"), again("c", store_, false, "folder"),
      other_folder("c", store_, false, "other"), other_node("d", store_, false, "folder"),
      no_folder("c", store_);
  const auto start = [&](Candidate& c) {
    c.leadership->Start(now_);
    for (int i = 0; i < 10; ++i) {
      store_.Run();
      c.RunPosted();
    }
  };
  start(killed);
  ASSERT_TRUE(killed.leadership->leads());
  killed.leadership = nullptr;
  for (Candidate* c : {&other_folder, &other_node, &no_folder}) {
    start(*c);
    EXPECT_FALSE(c->leadership->leads());
    EXPECT_THAT(c->others, ElementsAre("c:1"));
  }
  start(again);
  EXPECT_TRUE(again.leadership->leads());
  EXPECT_GT(again.terms.at(0), killed.terms.at(0));
  // What the one before had still on its way changes nothing.
  EXPECT_EQ(store_.state().Read(kLeaderKey, now_)->records.at(0).changed,
            static_cast<Revision>(again.terms[0]));
  // The end of the lease before is not that of the new one.
  now_ += 700ms;
  store_.SetNow(now_);
  again.leadership->OnTick(now_);
  store_.Run();
  again.RunPosted();
  now_ += 900ms;
  store_.SetNow(now_);
  ASSERT_TRUE(store_.state().Settle(now_).ok());
  EXPECT_EQ(Leader(), "c");
  again.leadership->OnTick(now_);
  EXPECT_TRUE(again.leadership->leads());
}

TEST_F(LeadershipTest, WhoResignsHearsWhenTheStoreKnows) {
  int told = 0;
  StartBoth();
  b_.leadership->Resign([&] { ++told; });
  EXPECT_EQ(told, 1) << "it has nothing to let go of";
  a_.leadership->Resign([&] { ++told; });
  EXPECT_EQ(told, 1);
  store_.Run();
  EXPECT_EQ(told, 2);
  EXPECT_EQ(Leader(), "");
}

TEST_F(LeadershipTest, AnElectionThatNobodyHeardOfIsHeldAgain) {
  int calls = 0;
  store_.fate = [&] { return ++calls == 3 ? FakeStore::Fate::kUnheard : FakeStore::Fate::kDone; };
  a_.leadership->Start(now_);
  Run();
  EXPECT_THAT(a_.terms, IsEmpty());
  Advance(3s);
  EXPECT_TRUE(a_.leadership->leads());
  EXPECT_EQ(a_.terms.size(), 1u);
}

TEST_F(LeadershipTest, AnElectionThatTookAsLongAsTheLeaseIsNone) {
  a_.leadership->Start(now_);
  for (int i = 0; i < 2; ++i) {
    store_.Arrive();
    store_.ComeBack();
    a_.RunPosted();
  }
  store_.Arrive();
  now_ += 1250ms;
  a_.leadership->OnTick(now_);
  store_.ComeBack();
  a_.RunPosted();
  EXPECT_FALSE(a_.leadership->leads());
  Advance(3s);
  EXPECT_TRUE(a_.leadership->leads());
}

// Two on one store, whose calls take any time, come in any order and now and then fail. Of each: never two
// lead at the same moment, and none leads when its lease is over; terms only grow; and once all is well again
// one of them leads.
TEST(LeadershipPropertyTest, NeverDoTwoLeadAtTheSameMoment) {
  int64_t elections = 0, losses = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    testing::Random random(seed);
    Time now(1h);
    FakeStore store(now);
    int unwell = 0;  // percent of the calls
    store.fate = [&] {
      if (random.Below(100) >= unwell) return FakeStore::Fate::kDone;
      return random.Below(2) == 0 ? FakeStore::Fate::kNeverArrives : FakeStore::Fate::kUnheard;
    };
    // One of them would take over what an earlier life of it has left.
    Candidate a("a", store, false, "folder"), b("b", store);
    std::vector<Candidate*> both = {&a, &b};
    for (Candidate* c : both) c->leadership->Start(now);
    uint64_t last_term = 0;
    std::vector<Time> stopped(2, now);  // a process that is stopped until then does not tick, nor act
    const auto step = [&](bool calm) {
      now += std::chrono::milliseconds(calm ? 20 : random.Below(40));
      store.SetNow(now);
      ASSERT_TRUE(store.state().Settle(now).ok());
      const int64_t things = calm ? 50 : random.Below(4);
      for (int64_t i = 0; i < things; ++i) {
        if (store.on_the_way() > 0 && random.Below(2) == 0)
          store.Arrive(static_cast<size_t>(random.Below(static_cast<int64_t>(store.on_the_way()))));
        if (store.coming_back() > 0 && random.Below(2) == 0)
          store.ComeBack(static_cast<size_t>(random.Below(static_cast<int64_t>(store.coming_back()))));
        if (random.Below(2) == 0) store.TellWatchers();
      }
      for (size_t i = 0; i < 2; ++i) {
        if (!calm && random.Below(300) == 0) stopped[i] = now + std::chrono::milliseconds(random.Below(4000));
        if (stopped[i] > now) continue;
        // What was stopped looks at the clock first.
        both[i]->leadership->OnTick(now);
        both[i]->RunPosted();
      }
      // Those that run: one that is stopped does nothing by its lead.
      int leading = 0;
      for (size_t i = 0; i < 2; ++i) leading += stopped[i] <= now && both[i]->leadership->leads();
      ASSERT_LE(leading, 1) << "at " << now.time_since_epoch().count();
      for (size_t i = 0; i < 2; ++i) {
        if (stopped[i] > now || !both[i]->leadership->leads()) continue;
        const auto records = store.state().Read(kLeaderKey, now);
        ASSERT_TRUE(records.ok());
        ASSERT_FALSE(records->records.empty()) << "its lease is over";
        ASSERT_EQ(static_cast<uint64_t>(records->records[0].changed), both[i]->leadership->term());
        ASSERT_GE(both[i]->leadership->term(), last_term);
        last_term = both[i]->leadership->term();
      }
    };
    for (int phase = 0; phase < 6; ++phase) {
      unwell = static_cast<int>(random.Below(3)) * 25;
      for (int i = 0; i < 200; ++i) {
        step(false);
        if (HasFatalFailure()) return;
      }
    }
    unwell = 0;
    stopped.assign(2, now);
    for (int i = 0; i < 500; ++i) {
      step(true);
      if (HasFatalFailure()) return;
    }
    EXPECT_NE(a.leadership->leads(), b.leadership->leads());
    elections += static_cast<int64_t>(a.terms.size() + b.terms.size());
    losses += static_cast<int64_t>(a.lost.size() + b.lost.size());
  }
  // It was put to the test.
  EXPECT_GT(elections, 600);
  EXPECT_GT(losses, 300);
}

}  // namespace
}  // namespace omni
