// The sessions that wait for a place: how many may, and who is next.
//
// Problem: a caller that sends five hundred requests takes every place and then the whole queue; whoever
// comes after it waits for all of them, or is refused.
//
// Whoever has the fewest sessions active is next, of equals the one that came first: a caller that comes
// with one request has the first place that is left, however many of others wait. And the queue cannot be
// filled by one caller: beyond its size there is a reserve of a quarter, in which one more may wait if its
// caller has fewer waiting than the reserve has places left. A caller that has filled the queue gets none of
// it, one that comes after it gets up to half, the next half of the rest: nobody is displaced, the whole is
// bounded, and six callers at least still find a place beyond a queue of 256.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <span>
#include <string>

#include <absl/status/status.h>

#include "actors/session.h"

namespace omni {

class WaitingSessions {
 public:
  // `size`: how many may wait whoever they are of, at least 1.
  explicit WaitingSessions(int size) : size_(static_cast<size_t>(size)), reserve_((size_ + 3) / 4) {}

  // Whether one more of the caller may wait; ResourceExhausted says why not.
  absl::Status MayWait(const std::string& caller) const;
  void Push(std::shared_ptr<Session> session) { sessions_.push_back(std::move(session)); }
  // Takes the one that is next beside those that are active. Not of none.
  std::shared_ptr<Session> TakeNext(std::span<const std::shared_ptr<Session>> active);
  void RemoveOver();  // sessions that have ended while they waited

  size_t size() const { return sessions_.size(); }
  bool empty() const { return sessions_.empty(); }
  auto begin() const { return sessions_.begin(); }  // in the order in which they came
  auto end() const { return sessions_.end(); }

 private:
  const size_t size_, reserve_;
  std::deque<std::shared_ptr<Session>> sessions_;
};

}  // namespace omni
