// Which experts share a tile: what a cache's policy and the tile index know of each other.
#pragma once

#include <cstdint>
#include <vector>

#include "store/format/tile_contents.h"

namespace omni {

// Which experts of its layer each tile belongs to: read-only, shared by many.
struct TileUsers {
  // Users of tile `content` are users[first[content]] .. users[first[content + 1] - 1]: table numbers
  // (TableNumbers), ascending.
  std::vector<uint32_t> first, users;
  int64_t experts = 0;  // of a layer: table / experts is the layer's place, table % experts the expert

  int64_t contents() const { return static_cast<int64_t>(first.size()) - 1; }
};

TileUsers UsersOf(const TileContents& contents);

}  // namespace omni
