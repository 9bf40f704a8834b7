// One expert tile's bytes (engine/model/weights.h, TileLayout), and the header of the pack files that hold
// many.
#pragma once

#include <cstdint>
#include <string>

#include <absl/status/statusor.h>

#include "engine/model/weights.h"
#include "store/file/hash.h"

namespace omni {

// Builds one tile neuron by neuron. Neurons never set stay zero (trits 0, scales 0).
class TileBuilder {
 public:
  explicit TileBuilder(int64_t width);
  void Clear();
  // Neuron n of the tile (0..63); gate, up and down are d trits each.
  void SetNeuron(int64_t n, const int8_t* gate, const int8_t* up, const int8_t* down, float gate_scale,
                 float up_scale);
  const std::string& bytes() const { return bytes_; }  // payload() long

 private:
  void AddRow(int64_t row, const int8_t* trits);

  TileLayout layout_;
  std::string bytes_;
};

// A pack file: a 64-byte header, then `count` tiles; tile i at first_offset + i * stride, zeros between.
struct PackHeader {
  int64_t payload = 0;       // bytes of a tile
  int64_t alignment = 0;     // of every tile in the file
  int64_t stride = 0;        // payload rounded up to alignment
  int64_t first_offset = 0;  // the header's 64 bytes rounded up to alignment
  int64_t count = 0;
  static constexpr int64_t kBytes = 64;

  static PackHeader For(int64_t payload, int64_t alignment);
  int64_t file_bytes() const { return first_offset + count * stride; }
  // The number of the tile that begins at `offset` of the file; -1 if none does.
  int64_t TileAt(uint64_t offset) const;
  std::string Encode() const;
  // Checks magic, version, checksum, and that the figures fit each other and `payload`. `path` is for the
  // messages.
  static absl::StatusOr<PackHeader> Parse(const std::string& path, const uint8_t* bytes, int64_t payload);
};

std::string PackName(uint32_t pack);  // "packs/tiles-000.bin"

// Where a stored tile lies, and what it must be.
struct TileRef {
  Hash128 hash;  // XXH3-128 of the payload
  uint32_t pack = 0;
  uint64_t offset = 0;    // from the start of the pack file
  uint64_t checksum = 0;  // XXH3-64 of the payload
  bool operator==(const TileRef&) const = default;
};

// A tile's bytes against the hash and the checksum of `ref`, and its codes and scales. The error (DataLoss
// for the first two, else InvalidArgument) says what is wrong and what to do; the tile's name belongs before
// it.
absl::Status CheckTileContent(const TileLayout& layout, const TileRef& ref, const uint8_t* tile);
// The same without the hash, for a tile whose reference is known to be the packer's: what a disk may have
// changed.
absl::Status CheckTileRead(const TileLayout& layout, const TileRef& ref, const uint8_t* tile);
absl::Status CheckTileSum(const TileLayout& layout, const TileRef& ref,
                          const uint8_t* tile);                              // the checksum alone
absl::Status CheckTileCodes(const TileLayout& layout, const uint8_t* tile);  // codes and scales alone

}  // namespace omni
