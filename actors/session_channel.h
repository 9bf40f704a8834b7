// The one-way street from the coordinator to a session's client: the producer never waits, the consumer does.
//
// Waking a thread costs the producer a system call and, on a busy machine, perhaps its core: far more than
// the token that it has to tell. So a consumer that has just been served is not woken for every token, but
// sees what has come in between after kPace. Its first event, a full channel and the end are told at once.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include <absl/status/statusor.h>

#include "actors/generate.h"

namespace omni {

// Thread-safe for one producer and one consumer. Progress events replace each other while unread; tokens
// never do.
class SessionChannel {
 public:
  // No reader of text notices it; at rates below 1 / kPace every token is told when it is drawn.
  static constexpr std::chrono::milliseconds kPace{10};

  // `capacity` >= 1: unread tokens after which the producer is told to pause. `notify`, if not empty, is
  // called by the producer, with no lock held, when there is something to take, and then not before Take or
  // Poll was called.
  explicit SessionChannel(size_t capacity, std::function<void()> notify = nullptr)
      : capacity_(capacity), notify_(std::move(notify)) {}

  // Producer. Push returns false if the channel is now full: push no more until the consumer's Taken says
  // `resume`.
  bool Push(GenerateEvent event);
  // The last word; pushes after it are ignored, and so is a second Close.
  void Close(absl::StatusOr<GenerateResult> result);

  struct Taken {
    std::vector<GenerateEvent> events;                     // in order
    bool resume = false;                                   // the producer was paused and may go on: tell it
    std::optional<absl::StatusOr<GenerateResult>> result;  // set once the session is over
  };
  // Consumer. Waits for an event, the end, or a stop request (then everything may be empty).
  Taken Take(const std::stop_token& stop);
  Taken Poll();  // never waits
  // It wants to hear no more: `notify` is not called after this has returned, which waits for a call that is
  // running, except in it.
  void Leave();

 private:
  Taken TakeAll();  // with the lock held
  bool ToNotify();  // the same
  void Notify();    // without it, where ToNotify was true
  enum class Waiting { kNo, kForUrgent, kForAny };

  const size_t capacity_;
  const std::function<void()> notify_;
  std::mutex mutex_;
  Waiting waiting_ = Waiting::kNo;
  std::chrono::steady_clock::time_point served_;  // when the consumer last took something
  std::condition_variable_any changed_;
  std::vector<GenerateEvent> events_;
  bool paused_ = false;
  bool notified_ = false;
  bool left_ = false, notifying_ = false;
  std::thread::id notifier_;  // while notifying_
  std::optional<absl::StatusOr<GenerateResult>> result_;
};

}  // namespace omni
