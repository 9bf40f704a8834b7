// The tiles that are kept in a cache because somebody guesses that they will be needed.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "engine/base/ids.h"
#include "store/cache/tile_slots.h"

namespace omni {

// Each requester's guesses by layer, its place among the expert layers: one requester's change nothing for
// another's. Not thread-safe.
class Guesses {
 public:
  // `slots` outlives the guesses.
  Guesses(TileSlots& slots, int64_t places) : slots_(slots), places_(static_cast<size_t>(places)) {}

  // The requester asks for an expert of that layer: if it was in another, the guess for that one is over.
  void Visit(RequesterId requester, int64_t place);
  // A new guess for a layer: what the old one held is returned, still held, for Release.
  [[nodiscard]] std::vector<uint32_t> Renew(RequesterId requester, int64_t place);
  void Hold(RequesterId requester, int64_t place, uint32_t slot);
  void Release(const std::vector<uint32_t>& held);
  void End();  // all of them
  void Forget(RequesterId requester);

  int64_t held() const { return held_; }  // slots, those held twice counted twice

 private:
  static constexpr int64_t kNowhere = -1;
  struct Requester {
    int64_t place = kNowhere;                 // of the layer it asked for last, since it guessed for it
    std::vector<std::vector<uint32_t>> held;  // by place: slots
  };
  Requester& Of(RequesterId requester);
  void EndPlace(std::vector<uint32_t>& held);

  TileSlots& slots_;
  size_t places_;
  std::map<RequesterId, Requester> requesters_;
  int64_t held_ = 0;
};

}  // namespace omni
