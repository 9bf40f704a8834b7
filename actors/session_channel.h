// The one-way street from the coordinator to a session's client: the producer never waits, the consumer does.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <optional>
#include <stop_token>
#include <vector>

#include <absl/status/statusor.h>

#include "actors/generate.h"

namespace omni {

// Thread-safe for one producer and one consumer. Progress events replace each other while unread; tokens never do.
class SessionChannel {
 public:
  // `capacity` >= 1: unread tokens after which the producer is told to pause.
  explicit SessionChannel(size_t capacity) : capacity_(capacity) {}

  // Producer. Push returns false if the channel is now full: push no more until the consumer's Taken says `resume`.
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

 private:
  const size_t capacity_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::vector<GenerateEvent> events_;
  bool paused_ = false;
  std::optional<absl::StatusOr<GenerateResult>> result_;
};

}  // namespace omni
