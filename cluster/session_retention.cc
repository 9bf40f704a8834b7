#include "cluster/session_retention.h"

#include <algorithm>
#include <utility>

namespace omni {

std::chrono::milliseconds RetentionOptions::look() const {
  return std::clamp<std::chrono::milliseconds>(keep / 10, std::chrono::milliseconds(100),
                                               std::chrono::seconds(30));
}

void SessionRetention::OnTick(Clock::time_point now) {
  now_ = std::max(now_, now);
  if (stopped_ || busy_ || now_ < next_) return;
  busy_ = true;
  log_.Times([this](absl::StatusOr<LoggedTimes> times) {
    owner_.Post([this, times = std::move(times)]() mutable { OnTimes(std::move(times)); });
  });
}

void SessionRetention::OnTimes(absl::StatusOr<LoggedTimes> times) {
  if (!times.ok()) return Rest();
  // A time in which it was stopped, or did not lead, was no use to clients either.
  const auto seen = std::chrono::duration_cast<std::chrono::milliseconds>(now_ - looked_);
  if (looked_ != Clock::time_point()) times->now += std::min(seen, 2 * options_.look());
  looked_ = now_;
  LoggedTimes news;
  news.now = times->now;
  for (const LoggedTimes::Session& session : times->sessions) {
    const bool in_use = owner_.InUse(session.id);
    const bool known = session.idle_since.has_value() && *session.idle_since <= times->now;
    if (known && !in_use && times->now - *session.idle_since >= options_.keep) {
      over_.push_back(session.id);
    } else if (known != in_use) {
      continue;
    } else if (news.sessions.size() < SessionLog::kMostTimes) {
      news.sessions.push_back({session.id, in_use ? std::nullopt : std::optional(times->now)});
    } else {
      more_ = true;
    }
  }
  log_.SetTimes(news, [this](const absl::Status& set) {
    owner_.Post([this, set] {
      if (!set.ok()) over_.clear();
      ForgetNext();
    });
  });
}

// One after another, so that what is shown meanwhile is not held up.
void SessionRetention::ForgetNext() {
  while (!over_.empty() && owner_.InUse(over_.back())) over_.pop_back();
  if (stopped_) over_.clear();
  if (over_.empty()) return Rest();
  forgetting_ = true;
  log_.Forget(over_.back(), [this](const absl::Status& forgotten) {
    owner_.Post([this, forgotten] {
      forgetting_ = false;
      over_.pop_back();
      if (forgotten.ok()) {
        forgotten_.Add(1);
      } else {
        over_.clear();  // it is tried again at the next look
      }
      for (auto& then : std::exchange(waiting_, {})) then();
      ForgetNext();
    });
  });
}

void SessionRetention::Rest() {
  busy_ = false;
  next_ = std::exchange(more_, false) ? now_ : now_ + options_.look();
}

bool SessionRetention::MayBegin(const std::string& id, std::function<void()> then) {
  if (!forgetting_ || over_.back() != id) return true;
  waiting_.push_back(std::move(then));
  return false;
}

}  // namespace omni
