#include "store/format/tile_table.h"

#include <absl/strings/str_cat.h>

#include "store/file/bytes.h"

namespace omni {
namespace {

void PutBigEndian(std::string* out, uint32_t v) {
  for (int shift = 24; shift >= 0; shift -= 8) out->push_back(static_cast<char>(v >> shift));
}

uint32_t GetBigEndian(std::string_view bytes) {
  uint32_t v = 0;
  for (int i = 0; i < 4; ++i) v = v << 8 | static_cast<uint8_t>(bytes[static_cast<size_t>(i)]);
  return v;
}

void PutHash(std::string* out, const Hash128& h) {
  PutField(out, h.high);
  PutField(out, h.low);
}
bool GetHash(FieldReader* in, Hash128* h) { return in->Get(&h->high) && in->Get(&h->low); }

void PutReference(std::string* out, const TileRef& ref) {
  PutHash(out, ref.hash);
  PutField(out, ref.pack);
  PutField(out, ref.offset);
  PutField(out, ref.checksum);
}
bool GetReference(FieldReader* in, TileRef* ref) {
  return GetHash(in, &ref->hash) && in->Get(&ref->pack) && in->Get(&ref->offset) && in->Get(&ref->checksum);
}

absl::Status Malformed(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("the tile table ", what));
}

absl::StatusOr<TileChange> GetChange(FieldReader* in) {
  TileChange change;
  uint8_t form = 0;
  if (!in->Get(&change.tile) || !in->Get(&form)) return Malformed("is cut short");
  if (form == 0) {
    if (!GetReference(in, &change.ref)) return Malformed("is cut short");
    return change;
  }
  if (form != 1) return Malformed(absl::StrCat("has a change of unknown form ", form));
  change.inline_delta = true;
  uint32_t length = 0;
  std::string_view delta;
  if (!in->Get(&change.ref.checksum) || !GetHash(in, &change.ref.hash) || !in->Get(&length) ||
      !in->GetBytes(length, &delta)) {
    return Malformed("is cut short");
  }
  change.delta = std::string(delta);
  return change;
}

}  // namespace

std::string TableKey(LayerId layer, ExpertId expert) {
  std::string key;
  PutBigEndian(&key, static_cast<uint32_t>(layer.value));
  PutBigEndian(&key, static_cast<uint32_t>(expert.value));
  return key;
}

bool ParseTableKey(std::string_view key, LayerId* layer, ExpertId* expert) {
  if (key.size() != 8) return false;
  const uint32_t l = GetBigEndian(key.substr(0, 4)), e = GetBigEndian(key.substr(4));
  if (l > INT32_MAX || e > INT32_MAX) return false;
  *layer = LayerId(static_cast<int32_t>(l));
  *expert = ExpertId(static_cast<int32_t>(e));
  return true;
}

std::string EncodeTable(const TileTable& table) {
  std::string out;
  PutField(&out, static_cast<uint8_t>(table.whole ? 0 : 1));
  if (table.whole) {
    PutField(&out, static_cast<uint32_t>(table.tiles.size()));
    for (const TileRef& ref : table.tiles) PutReference(&out, ref);
    return out;
  }
  PutField(&out, static_cast<uint32_t>(table.changes.size()));
  for (const TileChange& change : table.changes) {
    PutField(&out, change.tile);
    PutField(&out, static_cast<uint8_t>(change.inline_delta ? 1 : 0));
    if (!change.inline_delta) {
      PutReference(&out, change.ref);
      continue;
    }
    PutField(&out, change.ref.checksum);
    PutHash(&out, change.ref.hash);
    PutField(&out, static_cast<uint32_t>(change.delta.size()));
    out += change.delta;
  }
  return out;
}

absl::StatusOr<TileTable> DecodeTable(std::string_view value, int64_t tiles_per_expert) {
  FieldReader in(value);
  TileTable table;
  uint8_t kind = 0;
  uint32_t count = 0;
  if (!in.Get(&kind) || !in.Get(&count)) return Malformed("is cut short");
  if (kind > 1) return Malformed(absl::StrCat("is of unknown kind ", kind));
  table.whole = kind == 0;
  if (table.whole ? count != tiles_per_expert : count > tiles_per_expert) {
    return Malformed(absl::StrCat("lists ", count, " tiles, an expert has ", tiles_per_expert));
  }
  int64_t last = -1;
  for (uint32_t i = 0; i < count; ++i) {
    if (table.whole) {
      TileRef ref;
      if (!GetReference(&in, &ref)) return Malformed("is cut short");
      table.tiles.push_back(ref);
      continue;
    }
    absl::StatusOr<TileChange> change = GetChange(&in);
    if (!change.ok()) return change.status();
    if (change->tile <= last || change->tile >= tiles_per_expert)
      return Malformed("has tiles out of order or range");
    last = change->tile;
    table.changes.push_back(*std::move(change));
  }
  if (!in.rest().empty()) return Malformed("has bytes left over");
  return table;
}

}  // namespace omni
