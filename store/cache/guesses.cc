#include "store/cache/guesses.h"

#include <utility>

namespace omni {

Guesses::Requester& Guesses::Of(RequesterId id) {
  Requester& requester = requesters_[id];
  if (requester.held.empty()) requester.held.resize(places_);
  return requester;
}

void Guesses::Visit(RequesterId id, int64_t place) {
  Requester& requester = Of(id);
  if (place == requester.place) return;
  if (requester.place != kNowhere) EndPlace(requester.held[static_cast<size_t>(requester.place)]);
  requester.place = place;
}

std::vector<uint32_t> Guesses::Renew(RequesterId id, int64_t place) {
  Requester& requester = Of(id);
  if (requester.place == place) requester.place = kNowhere;  // what it asked for there was before this
  return std::exchange(requester.held[static_cast<size_t>(place)], {});
}

void Guesses::Hold(RequesterId id, int64_t place, uint32_t slot) {
  slots_.Hold(slot);
  Of(id).held[static_cast<size_t>(place)].push_back(slot);
  ++held_;
}

void Guesses::Release(const std::vector<uint32_t>& held) {
  for (uint32_t slot : held) slots_.LetGo(slot);
  held_ -= static_cast<int64_t>(held.size());
}

void Guesses::End() {
  for (auto& [id, requester] : requesters_) {
    for (std::vector<uint32_t>& held : requester.held) EndPlace(held);
  }
}

void Guesses::Forget(RequesterId id) {
  const auto at = requesters_.find(id);
  if (at == requesters_.end()) return;
  for (std::vector<uint32_t>& held : at->second.held) EndPlace(held);
  requesters_.erase(at);
}

void Guesses::EndPlace(std::vector<uint32_t>& held) {
  Release(held);
  held.clear();
}

}  // namespace omni
