#include "cluster/fair_executor.h"

#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni {
namespace {

using ::testing::ElementsAre;

class FairExecutorTest : public ::testing::Test {
 protected:
  // Something to wait behind, until Go. Turns go by callers' names: its caller's is the first, that of Finish
  // the last.
  void Block() {
    const auto begun = std::make_shared<std::promise<void>>();
    Keep(executor_->Post("", [begun, go = go_.get_future().share()] {
      begun->set_value();
      go.wait();
    }));
    begun->get_future().wait();
  }
  void Go() { go_.set_value(); }
  void Keep(FairExecutor::Ticket ticket) { tickets_.push_back(std::move(ticket)); }
  void Post(const std::string& caller, const std::string& name) {
    Keep(executor_->Post(caller, [this, name] { done_.push_back(name); }));
  }
  // After all that is posted.
  void Finish() {
    const auto done = std::make_shared<std::promise<void>>();
    Keep(executor_->Post("zzz", [done] { done->set_value(); }));
    done->get_future().wait();
  }

  std::promise<void> go_;
  std::vector<std::string> done_;  // on the executor's thread
  std::unique_ptr<FairExecutor> executor_ = std::make_unique<FairExecutor>();
  std::vector<FairExecutor::Ticket> tickets_;
};

TEST_F(FairExecutorTest, WhoBringsManyKeepsNobodyElseWaiting) {
  Block();
  for (int i = 0; i < 4; ++i) Post("many", "many " + std::to_string(i));
  Post("one", "one");
  Post("zwei", "zwei 0");
  Post("zwei", "zwei 1");
  Go();
  for (int i = 0; i < 4; ++i) Finish();  // the last of them comes after all others
  EXPECT_THAT(done_, ElementsAre("many 0", "one", "zwei 0", "many 1", "zwei 1", "many 2", "many 3"));
}

TEST_F(FairExecutorTest, WithItsTicketGoesADeedAndWhatItHolds) {
  Block();
  auto body = std::make_shared<std::string>("large");
  const std::weak_ptr<std::string> there = body;
  {
    const FairExecutor::Ticket ticket =
        executor_->Post("a", [this, body = std::move(body)] { done_.push_back(*body); });
    EXPECT_FALSE(there.expired());
  }
  EXPECT_TRUE(there.expired());
  Post("a", "next");
  Go();
  Finish();
  EXPECT_THAT(done_, ElementsAre("next"));
}

TEST_F(FairExecutorTest, AnotherTicketInItsPlaceDropsTheFirst) {
  Block();
  FairExecutor::Ticket ticket = executor_->Post("a", [this] { done_.push_back("first"); });
  ticket = executor_->Post("a", [this] { done_.push_back("second"); });
  Go();
  Finish();
  EXPECT_THAT(done_, ElementsAre("second"));
}

TEST_F(FairExecutorTest, EndingWaitsForTheDeedUnderWayAndDropsTheOthers) {
  for (int round = 0; round < 100; ++round) {
    // There is always one more that waits: who did them all would go on for ever.
    struct Chain {
      FairExecutor::Ticket next;  // of the executor's thread, until that ends
      std::weak_ptr<int> held;
      std::promise<void> begun;
      std::atomic<bool> running = false;
      bool first = true;
      void Post(FairExecutor* with) {
        auto body = std::make_shared<int>(1);
        held = body;
        next = with->Post("a", [this, with, body = std::move(body)] {
          running = true;
          Post(with);
          if (std::exchange(first, false)) begun.set_value();
          for (int i = 0; i < 50; ++i) std::this_thread::yield();
          running = false;
        });
      }
    };
    auto executor = std::make_unique<FairExecutor>();
    Chain chain;
    chain.Post(executor.get());
    chain.begun.get_future().wait();
    executor = nullptr;
    EXPECT_FALSE(chain.running) << "it waits for the one under way";
    EXPECT_TRUE(chain.held.expired()) << "it drops the next, whose ticket is still there";
  }
}

}  // namespace
}  // namespace omni
