// How many lines of one event a second may have. Not thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/log.h"

namespace omni {

class LogRateLimit {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr std::chrono::seconds kWindow{1};

  explicit LogRateLimit(int per_window) : per_window_(per_window) {}
  void set_per_window(int per_window) { per_window_ = per_window; }

  // Whether a line of this event may be written now; if not, it is counted as left out. A window begins with
  // the first line after the last window's end. Remembers every event, so their number must be bounded.
  bool Admit(std::string_view event, LogLevel level, Time now);

  struct LeftOut {
    std::string event;
    LogLevel level = LogLevel::kInfo;
    int64_t lines = 0;
  };
  // What was left out in windows that are over at `now` and was not taken before, in the order of the names.
  std::vector<LeftOut> TakeLeftOut(Time now);

 private:
  struct Window {
    LogLevel level = LogLevel::kInfo;
    Time begin;
    int64_t admitted = 0, left_out = 0;
  };

  int per_window_;
  int64_t left_out_ = 0;  // in all windows
  std::map<std::string, Window, std::less<>> windows_;
};

}  // namespace omni
