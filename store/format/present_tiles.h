// Which stored tiles of a model lie in a directory that holds a part of it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "store/file/hash.h"
#include "store/format/tile.h"

namespace omni {

// A tile by its place: the number of its pack file, and its own number in that file.
struct TilePlace {
  uint32_t pack = 0, tile = 0;
  auto operator<=>(const TilePlace&) const = default;
};

// Numbers the stored tiles of a model through all pack files in order, and keeps one bit for each.
class PresentTiles {
 public:
  // None present. `tiles`: of each pack file, together below 2^32.
  explicit PresentTiles(std::vector<int64_t> tiles);
  static PresentTiles ForPacks(std::span<const PackHeader> packs);

  int64_t tiles() const { return first_.back(); }
  int64_t count() const { return count_; }  // present
  bool complete() const { return count_ == tiles(); }
  int64_t Number(TilePlace place) const;  // -1: there is no such tile
  TilePlace Place(int64_t number) const;

  bool Has(int64_t number) const { return (bits_[Byte(number)] >> (number % 8) & 1) != 0; }
  void Set(int64_t number, bool present);
  bool SameModel(const PresentTiles& other) const { return first_ == other.first_; }

  // The record of a directory (docs/formats.md).
  std::string Encode(const Hash128& model) const;
  // Any bytes are safe. DataLoss: they are no record of that model; `path` is for the message.
  static absl::StatusOr<PresentTiles> Parse(const std::string& path, std::string_view bytes,
                                            const Hash128& model);

 private:
  static size_t Byte(int64_t number) { return static_cast<size_t>(number / 8); }

  std::vector<int64_t> first_;  // number of each pack file's first tile; then the number of all
  std::vector<uint8_t> bits_;   // tile n: bit n % 8 of byte n / 8
  int64_t count_ = 0;
};

}  // namespace omni
