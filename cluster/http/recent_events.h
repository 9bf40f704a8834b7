// The log's latest lines, for whoever watches the process.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "engine/base/log_output.h"

namespace omni {

struct RecentEvent {
  int64_t number = 0;  // counted from 1, without gaps
  std::chrono::system_clock::time_point time;
  LogLevel level = LogLevel::kInfo;
  std::string event, message;  // of any bytes
};

// The log's tap (engine/base/log_output.h), until another one is made or it ends. Thread-safe.
class RecentEvents : public LogSink {
 public:
  static constexpr size_t kMost = 200;             // that are kept; older ones are forgotten
  static constexpr size_t kMostMessage = 1 << 10;  // bytes; what is longer is cut

  RecentEvents() { SetLogTap(this); }
  ~RecentEvents() override;
  RecentEvents(const RecentEvents&) = delete;
  RecentEvents& operator=(const RecentEvents&) = delete;

  void Write(const LogRecord& record) override;
  std::vector<RecentEvent> After(int64_t number) const;  // those that are kept, the oldest first
  int64_t last() const;                                  // the number of the latest; 0: there was none

 private:
  mutable std::mutex mutex_;
  int64_t last_ = 0;
  std::deque<RecentEvent> events_;
};

}  // namespace omni
