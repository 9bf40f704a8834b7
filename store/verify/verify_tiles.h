// The tile tables and pack files for VerifyModel.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "store/format/delta_db.h"
#include "store/format/model_files.h"
#include "store/format/table_reader.h"
#include "store/verify/verify_file.h"

namespace omni {

// Reads the headers and tables at first, by one thread; then every pack by a thread of its own.
class TileCheck {
 public:
  explicit TileCheck(const ModelFiles& files);

  size_t packs() const { return packs_.size(); }
  const std::string& pack_name(size_t pack) const { return packs_[pack].name; }

  // The tables, from files that have their hashes. Without it, tiles have no checksums.
  void ReadTables(Defects* defects);
  // The pack file and the tiles made from it.
  void VerifyPack(size_t pack, VerifyState* state, Defects* defects) const;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Tile {  // of a pack, as its first reference describes it
    Hash128 hash;
    uint64_t checksum = 0;
    uint32_t table = kNone, tile = 0;
  };
  struct Scattered {  // a scattered delta against a tile of a pack
    uint32_t base, table, tile, bytes;
  };
  struct Pack {
    std::string name;
    absl::Status header_error;
    PackHeader header;
    std::vector<Tile> tiles;           // none if the header is bad; those that the file is long enough for
    std::vector<Scattered> scattered;  // by base
  };
  struct Place {
    uint32_t pack = kNone, tile = 0;
  };
  class Tables;
  class Deltas;

  void VerifyTile(const Pack& pack, uint32_t number, const uint8_t* bytes, Deltas* deltas, bool* bad,
                  Defects* defects) const;

  const ModelFiles& files_;
  TileLayout layout_;
  TableNumbers numbers_;
  std::vector<PackHeader> headers_;
  std::vector<Pack> packs_;
  std::optional<DeltaDb> db_;
  bool tables_whole_ = false;  // every table was read, and every reference lands on a tile
};

}  // namespace omni
