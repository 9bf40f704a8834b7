// A tile as scattered changes to another tile of the same layout: small where few trits differ.
//
// Bytes:  u8 scales, then that many (u8 index, float32 value), index ascending: 0..63 s_g, 64..127 s_u
//         u32 trits, u8 k, then a bit stream, least significant bit first, zero-padded to a byte: per changed
//         trit the number of unchanged trits since the last change, Rice coded (gap >> k ones, a zero, the k
//         low bits of gap, low bit first), and one bit b: the new trit is (old + 1 + b) mod 3 in codes 0..2.
// Trit 5 * i + j is trit j of ternary byte i of the tile; the ternary bytes are those before the scales.
#pragma once

#include <string>
#include <string_view>

#include <absl/status/status.h>

#include "engine/model/weights.h"

namespace omni {

// Both tiles have valid codes. The smallest such coding.
std::string EncodeTileDelta(const TileLayout& layout, const uint8_t* base, const uint8_t* tile);

// Applies `delta` to `tile`, which holds the base. Any bytes are safe: what is cut, too long or out of range
// is rejected, and `tile` then left half changed.
absl::Status ApplyTileDelta(const TileLayout& layout, std::string_view delta, uint8_t* tile);

}  // namespace omni
