// The values of the delta database: for one expert of one layer, which tiles it is made of.
//
// Key (8 bytes): layer, expert, each u32 big-endian, so that keys sort by layer, then expert.
// Value:  u8 kind: 0 whole, 1 delta against the same layer of the region's keyframe expert
//         whole: u32 tiles, then that many references in tile order
//         delta: u32 changes, then per change, tile ascending:  u32 tile, u8 form
//                form 0: a reference
//                form 1: u64 checksum, 16 bytes hash, u32 length, then a scattered delta (tile_delta.h)
//                        against the keyframe's tile of that number; checksum and hash are of the result
// Reference (36 bytes): 16 bytes hash (two u64, high half first), u32 pack, u64 offset, u64 checksum.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/base/ids.h"
#include "store/format/tile.h"

namespace omni {

struct TileChange {
  uint32_t tile = 0;
  bool inline_delta = false;
  TileRef ref;        // inline: hash and checksum of the result only
  std::string delta;  // inline only
};

struct TileTable {
  bool whole = false;
  std::vector<TileRef> tiles;       // whole
  std::vector<TileChange> changes;  // delta
};

std::string TableKey(LayerId layer, ExpertId expert);
bool ParseTableKey(std::string_view key, LayerId* layer, ExpertId* expert);

std::string EncodeTable(const TileTable& table);
// `tiles_per_expert` bounds every tile number and is the length of a whole table.
absl::StatusOr<TileTable> DecodeTable(std::string_view value, int64_t tiles_per_expert);

inline constexpr int64_t kReferenceBytes = 36;
inline constexpr int64_t kWholeTableBytes = 5;  // before the references
inline constexpr int64_t kChangeBytes = 5;      // before a change's reference
inline constexpr int64_t kInlineBytes = 28;  // of an inline change between kChangeBytes and the delta itself

}  // namespace omni
