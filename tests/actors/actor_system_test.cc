#include "actors/actor_system.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include <gtest/gtest.h>
#include <caf/all.hpp>

namespace omni {
namespace {

// Counts what it is asked for; what happens while it waits is the test's to say.
class CountingLoop : public ActorLoop {
 public:
  struct Counts {
    std::atomic<int> polls = 0, waits = 0, wakes = 0;
    std::atomic<bool> waiting = false;
    std::function<void()> once_waiting;  // before the first message is sent
  };
  explicit CountingLoop(Counts& counts) : counts_(counts) {}

  void Poll() override { ++counts_.polls; }
  void Wait() override {
    ++counts_.waits;
    if (auto now = std::exchange(counts_.once_waiting, nullptr)) {
      now();
      return;
    }
    std::unique_lock lock(mutex_);
    counts_.waiting = true;
    news_.wait(lock, [this] { return std::exchange(woken_, false); });
    counts_.waiting = false;
  }
  void Wake() override {
    ++counts_.wakes;
    std::lock_guard lock(mutex_);
    woken_ = true;
    news_.notify_one();
  }

 private:
  Counts& counts_;
  std::mutex mutex_;
  std::condition_variable news_;
  bool woken_ = false;
};

using Counter = caf::typed_actor<caf::reacts_to<int>>;

std::unique_ptr<ActorSystem> StartWith(CountingLoop::Counts& counts) {
  auto actors = ActorSystem::Start(std::make_unique<CountingLoop>(counts));
  EXPECT_TRUE(actors.ok()) << actors.status();
  return *std::move(actors);
}

TEST(ActorSystemTest, AMessageOfAnotherThreadWakesTheLoop) {
  CountingLoop::Counts counts;
  const std::unique_ptr<ActorSystem> actors = StartWith(counts);
  std::promise<int> got;
  const auto actor = actors->system().spawn([&](Counter::pointer self) -> Counter::behavior_type {
    return {[&, self](int number) {
      got.set_value(number);
      self->quit();
    }};
  });
  while (!counts.waiting) std::this_thread::yield();
  caf::anon_send(actor, 7);
  EXPECT_EQ(got.get_future().get(), 7);
  EXPECT_GE(counts.wakes, 1);
}

TEST(ActorSystemTest, ActorsThatWakeEachOtherLeaveATurnToWhomSomebodyElseHasWoken) {
  auto started = ActorSystem::Start();
  ASSERT_TRUE(started.ok()) << started.status();
  const std::unique_ptr<ActorSystem> actors = *std::move(started);
  std::atomic<bool> served = false, playing = false, starved = false;
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  // What it gets it sends back, for as long as the third one has not been served.
  const auto back = [&](caf::event_based_actor* self) -> caf::behavior {
    return {[&, self](int number) {
      playing = true;
      if (!served && std::chrono::steady_clock::now() >= give_up) starved = true;
      const bool on = !served && !starved;
      if (on) self->send(caf::actor_cast<caf::actor>(self->current_sender()), number + 1);
      if (!on) self->quit();
    }};
  };
  const caf::actor one = actors->system().spawn(back);
  const caf::actor other = actors->system().spawn([&](caf::event_based_actor* self) -> caf::behavior {
    self->send(one, 0);
    return back(self);
  });
  while (!playing) std::this_thread::yield();
  const auto third = actors->system().spawn([&](Counter::pointer self) -> Counter::behavior_type {
    return {[&, self](int) {
      served = true;
      self->quit();
    }};
  });
  caf::anon_send(third, 1);
  while (!served && !starved) std::this_thread::yield();
  EXPECT_FALSE(starved);
  caf::anon_send_exit(one, caf::exit_reason::user_shutdown);
  caf::anon_send_exit(other, caf::exit_reason::user_shutdown);
}

TEST(ActorSystemTest, WhatTheLoopItselfTellsActorsNeedsNoWaking) {
  CountingLoop::Counts counts;
  std::promise<Counter> spawned;
  std::promise<int> got;
  int wakes_before = 0, wakes_then = -1;
  counts.once_waiting = [&] {
    const Counter actor = spawned.get_future().get();
    wakes_before = counts.wakes;
    caf::anon_send(actor, 8);
  };
  // The first wait begins when nothing has been spawned.
  const std::unique_ptr<ActorSystem> actors = StartWith(counts);
  while (counts.waits == 0) std::this_thread::yield();
  const auto actor =
      actors->system().spawn<caf::lazy_init>([&](Counter::pointer self) -> Counter::behavior_type {
        return {[&, self](int number) {
          wakes_then = counts.wakes;
          got.set_value(number);
          self->quit();
        }};
      });
  spawned.set_value(actor);
  EXPECT_EQ(got.get_future().get(), 8);
  EXPECT_EQ(wakes_then, wakes_before);
}

TEST(ActorSystemTest, ActorsThatAlwaysHaveSomethingToDoDoNotKeepTheLoopWaiting) {
  CountingLoop::Counts counts;
  const std::unique_ptr<ActorSystem> actors = StartWith(counts);
  const auto actor = actors->system().spawn([&](Counter::pointer self) -> Counter::behavior_type {
    return {[&, self](int polls) {
      if (counts.polls >= polls + 3) {
        self->quit();
      } else {
        self->send(self, polls);
      }
    }};
  });
  caf::anon_send(actor, counts.polls.load());
  caf::scoped_actor waiting{actors->system()};
  waiting->wait_for(actor);  // ends: its own messages did not keep the loop from being polled
  EXPECT_GE(counts.polls, 3);
}

TEST(ActorSystemTest, AnActorThatSendsItselfMessagesLeavesOthersTheirTurn) {
  auto actors = ActorSystem::Start();
  ASSERT_TRUE(actors.ok()) << actors.status();
  std::atomic<bool> done = false;
  const auto busy = (*actors)->system().spawn([&](Counter::pointer self) -> Counter::behavior_type {
    return {[&, self](int number) {
      if (done) {
        self->quit();
      } else {
        self->send(self, number);
      }
    }};
  });
  caf::anon_send(busy, 1);
  const auto other = (*actors)->system().spawn([&](Counter::pointer self) -> Counter::behavior_type {
    return {[&, self](int) {
      done = true;
      self->quit();
    }};
  });
  caf::anon_send(other, 1);
  caf::scoped_actor waiting{(*actors)->system()};
  waiting->wait_for(busy, other);
  EXPECT_TRUE(done);
}

}  // namespace
}  // namespace omni
