#include "cluster/http/recent_events.h"

#include <algorithm>

namespace omni {

RecentEvents::~RecentEvents() {
  LogSink* tap = SetLogTap(nullptr);
  if (tap != this) SetLogTap(tap);
}

void RecentEvents::Write(const LogRecord& record) {
  RecentEvent event{0, record.time, record.level, std::string(record.event), LogMessage(record)};
  if (event.message.size() > kMostMessage) event.message.resize(kMostMessage);
  std::lock_guard lock(mutex_);
  event.number = ++last_;
  events_.push_back(std::move(event));
  if (events_.size() > kMost) events_.pop_front();
}

std::vector<RecentEvent> RecentEvents::After(int64_t number) const {
  std::lock_guard lock(mutex_);
  const auto from = std::find_if(events_.begin(), events_.end(),
                                 [number](const RecentEvent& event) { return event.number > number; });
  return {from, events_.end()};
}

int64_t RecentEvents::last() const {
  std::lock_guard lock(mutex_);
  return last_;
}

}  // namespace omni
