#include "actors/session_channel.h"

#include <utility>

namespace omni {

bool SessionChannel::Push(GenerateEvent event) {
  bool room = true;
  bool wake = false, notify = false;
  {
    std::lock_guard lock(mutex_);
    if (result_.has_value()) return true;
    if (!event.is_token && !events_.empty() && !events_.back().is_token) {
      events_.back() = std::move(event);
    } else {
      events_.push_back(std::move(event));
    }
    room = events_.size() < capacity_;
    paused_ = !room;
    wake = waiting_ == Waiting::kForAny || (waiting_ == Waiting::kForUrgent && !room);
    notify = ToNotify();
  }
  if (wake) changed_.notify_one();
  if (notify) Notify();
  return room;
}

void SessionChannel::Close(absl::StatusOr<GenerateResult> result) {
  bool notify = false;
  {
    std::lock_guard lock(mutex_);
    if (result_.has_value()) return;
    result_ = std::move(result);
    notify = ToNotify();
  }
  changed_.notify_one();
  if (notify) Notify();
}

bool SessionChannel::ToNotify() {
  if (notify_ == nullptr || left_ || std::exchange(notified_, true)) return false;
  notifying_ = true;
  notifier_ = std::this_thread::get_id();
  return true;
}

void SessionChannel::Notify() {
  notify_();
  {
    std::lock_guard lock(mutex_);
    notifying_ = false;
  }
  changed_.notify_all();
}

void SessionChannel::Leave() {
  std::unique_lock lock(mutex_);
  left_ = true;
  if (notifying_ && notifier_ == std::this_thread::get_id()) return;
  changed_.wait(lock, [this] { return !notifying_; });
}

SessionChannel::Taken SessionChannel::TakeAll() {
  Taken taken;
  taken.events.swap(events_);
  taken.resume = std::exchange(paused_, false);
  taken.result = result_;
  notified_ = false;
  return taken;
}

SessionChannel::Taken SessionChannel::Poll() {
  std::lock_guard lock(mutex_);
  return TakeAll();
}

SessionChannel::Taken SessionChannel::Take(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  waiting_ = Waiting::kForUrgent;
  changed_.wait_until(lock, stop, served_ + kPace, [this] { return paused_ || result_.has_value(); });
  waiting_ = Waiting::kForAny;
  changed_.wait(lock, stop, [this] { return !events_.empty() || result_.has_value(); });
  waiting_ = Waiting::kNo;
  served_ = std::chrono::steady_clock::now();
  return TakeAll();
}

}  // namespace omni
