#include "actors/waiting_sessions.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {

absl::Status WaitingSessions::MayWait(const std::string& caller) const {
  if (sessions_.size() < size_) return absl::OkStatus();
  const auto own = static_cast<size_t>(std::count_if(
      sessions_.begin(), sessions_.end(), [&](const auto& session) { return session->caller() == caller; }));
  if (sessions_.size() + own < size_ + reserve_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(sessions_.size(), " requests are waiting already, ", own,
                                                   " of them of the same caller; ", "try again later"));
}

std::shared_ptr<Session> WaitingSessions::TakeNext(std::span<const std::shared_ptr<Session>> active) {
  auto next = sessions_.begin();
  if (sessions_.size() > 1 && !active.empty()) {
    std::unordered_map<std::string_view, int> places;
    for (const auto& session : active) ++places[session->caller()];
    int fewest = INT32_MAX;
    for (auto it = sessions_.begin(); it != sessions_.end() && fewest > 0; ++it) {
      const auto has = places.find((*it)->caller());
      const int own = has == places.end() ? 0 : has->second;
      if (own >= fewest) continue;
      fewest = own;
      next = it;
    }
  }
  std::shared_ptr<Session> taken = std::move(*next);
  sessions_.erase(next);
  return taken;
}

void WaitingSessions::RemoveOver() {
  std::erase_if(sessions_, [](const auto& session) { return session->over(); });
}

}  // namespace omni
