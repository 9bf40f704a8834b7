// Whoever has left a channel is not called any more.
#include "actors/session_channel.h"

#include <future>
#include <thread>

#include <gtest/gtest.h>

namespace omni {
namespace {

TEST(SessionChannelTest, WhoHasLeftIsNotCalledAnyMore) {
  int calls = 0;
  SessionChannel channel(4, [&] { ++calls; });
  channel.Push({});
  EXPECT_EQ(calls, 1);
  (void)channel.Poll();
  channel.Leave();
  channel.Push({});
  channel.Close(absl::CancelledError(""));
  EXPECT_EQ(calls, 1);
}

TEST(SessionChannelTest, WhoLeavesWaitsForACallThatIsRunning) {
  std::promise<void> begun, may_end;
  bool ended = false;
  SessionChannel channel(4, [&] {
    begun.set_value();
    may_end.get_future().wait();
    ended = true;
  });
  std::thread producer([&] { channel.Push({}); });
  begun.get_future().wait();
  std::thread later([&] { may_end.set_value(); });
  channel.Leave();
  EXPECT_TRUE(ended);
  producer.join();
  later.join();
}

TEST(SessionChannelTest, WhoLeavesWhileItIsCalledDoesNotWaitForItself) {
  SessionChannel* self = nullptr;
  SessionChannel channel(4, [&] { self->Leave(); });
  self = &channel;
  channel.Push({});
  channel.Push({});
}

}  // namespace
}  // namespace omni
