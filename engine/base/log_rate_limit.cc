#include "engine/base/log_rate_limit.h"

#include <utility>

namespace omni {

bool LogRateLimit::Admit(std::string_view event, LogLevel level, Time now) {
  auto it = windows_.find(event);
  if (it == windows_.end()) it = windows_.emplace(event, Window{.level = level, .begin = now}).first;
  Window& window = it->second;
  if (now - window.begin >= kWindow) {
    window.begin = now;
    window.admitted = 0;
  }
  if (window.admitted < per_window_) {
    ++window.admitted;
    return true;
  }
  ++window.left_out;
  ++left_out_;
  return false;
}

std::vector<LogRateLimit::LeftOut> LogRateLimit::TakeLeftOut(Time now) {
  std::vector<LeftOut> taken;
  if (left_out_ == 0) return taken;
  for (auto& [event, window] : windows_) {
    if (window.left_out == 0 || now - window.begin < kWindow) continue;
    left_out_ -= window.left_out;
    taken.push_back({event, window.level, std::exchange(window.left_out, 0)});
  }
  return taken;
}

}  // namespace omni
