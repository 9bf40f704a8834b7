#include "store/format/tile_delta.h"

#include <cstring>
#include <vector>

#include <absl/strings/str_cat.h>

#include "store/file/bytes.h"

namespace omni {
namespace {

constexpr int kMaxRice = 30;
constexpr int kTritsPerByte = 5;
constexpr int kPlace[kTritsPerByte] = {1, 3, 9, 27, 81};
constexpr int kScales = 2 * kTileNeurons;

struct Change {
  uint64_t gap;
  bool bit;
};

class BitWriter {
 public:
  explicit BitWriter(std::string* out) : out_(out) {}
  void Put(bool bit) {
    if (used_ == 0) out_->push_back('\0');
    if (bit) out_->back() = static_cast<char>(out_->back() | (1 << used_));
    used_ = (used_ + 1) % 8;
  }

 private:
  std::string* out_;
  int used_ = 0;
};

class BitReader {
 public:
  explicit BitReader(std::string_view bytes) : bytes_(bytes) {}
  bool Get(bool* bit) {
    if (at_ / 8 >= bytes_.size()) return false;
    *bit = (static_cast<uint8_t>(bytes_[at_ / 8]) >> (at_ % 8)) & 1;
    ++at_;
    return true;
  }
  // All bytes used, the last one's spare bits zero.
  bool AtEnd() const {
    if ((at_ + 7) / 8 != bytes_.size()) return false;
    return at_ % 8 == 0 || (static_cast<uint8_t>(bytes_.back()) >> (at_ % 8)) == 0;
  }

 private:
  std::string_view bytes_;
  uint64_t at_ = 0;
};

std::vector<Change> FindChanges(const TileLayout& layout, const uint8_t* base, const uint8_t* tile) {
  std::vector<Change> changes;
  uint64_t gap = 0;
  for (int64_t i = 0; i < layout.gate_scale_offset(); ++i) {
    if (base[i] == tile[i]) {
      gap += kTritsPerByte;
      continue;
    }
    int from = base[i], to = tile[i];
    for (int j = 0; j < kTritsPerByte; ++j, from /= 3, to /= 3) {
      if (from % 3 == to % 3) {
        ++gap;
        continue;
      }
      changes.push_back({gap, (to % 3 - from % 3 + 3) % 3 == 2});
      gap = 0;
    }
  }
  return changes;
}

uint64_t RiceBits(const std::vector<Change>& changes, int k) {
  uint64_t bits = 0;
  for (const Change& c : changes) bits += (c.gap >> k) + 1 + static_cast<uint64_t>(k) + 1;
  return bits;
}

absl::Status Malformed(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("the scattered delta is malformed: ", what));
}

}  // namespace

std::string EncodeTileDelta(const TileLayout& layout, const uint8_t* base, const uint8_t* tile) {
  std::string scales;
  uint8_t scale_count = 0;
  for (int i = 0; i < kScales; ++i) {
    const int64_t at = layout.gate_scale_offset() + 4 * i;
    if (std::memcmp(base + at, tile + at, 4) == 0) continue;
    ++scale_count;
    PutField(&scales, static_cast<uint8_t>(i));
    scales.append(reinterpret_cast<const char*>(tile + at), 4);
  }
  const std::vector<Change> changes = FindChanges(layout, base, tile);
  int best = 0;
  for (int k = 1; k <= kMaxRice; ++k) {
    if (RiceBits(changes, k) < RiceBits(changes, best)) best = k;
  }
  std::string out;
  PutField(&out, scale_count);
  out += scales;
  PutField(&out, static_cast<uint32_t>(changes.size()));
  PutField(&out, static_cast<uint8_t>(best));
  BitWriter bits(&out);
  for (const Change& c : changes) {
    for (uint64_t q = c.gap >> best; q > 0; --q) bits.Put(true);
    bits.Put(false);
    for (int b = 0; b < best; ++b) bits.Put((c.gap >> b) & 1);
    bits.Put(c.bit);
  }
  return out;
}

absl::Status ApplyTileDelta(const TileLayout& layout, std::string_view delta, uint8_t* tile) {
  FieldReader reader(delta);
  uint8_t scale_count = 0;
  if (!reader.Get(&scale_count)) return Malformed("it is cut short");
  for (int i = 0, last = -1; i < scale_count; ++i) {
    uint8_t index = 0;
    std::string_view value;
    if (!reader.Get(&index) || !reader.GetBytes(4, &value)) return Malformed("its scales are cut short");
    if (index >= kScales || index <= last) return Malformed("its scales are out of order");
    last = index;
    std::memcpy(tile + layout.gate_scale_offset() + 4 * index, value.data(), 4);
  }
  uint32_t count = 0;
  uint8_t k = 0;
  if (!reader.Get(&count) || !reader.Get(&k)) return Malformed("its trits are cut short");
  if (k > kMaxRice) return Malformed("its Rice parameter is out of range");
  const uint64_t trits = static_cast<uint64_t>(layout.gate_scale_offset()) * kTritsPerByte;
  BitReader bits(reader.rest());
  uint64_t at = 0;
  for (uint32_t n = 0; n < count; ++n) {
    uint64_t quotient = 0, low = 0;
    bool bit = false;
    while (true) {
      if (!bits.Get(&bit)) return Malformed("its trits are cut short");
      if (!bit) break;
      ++quotient;
    }
    for (int b = 0; b < k; ++b) {
      if (!bits.Get(&bit)) return Malformed("its trits are cut short");
      low |= static_cast<uint64_t>(bit) << b;
    }
    if (!bits.Get(&bit)) return Malformed("its trits are cut short");
    at += (quotient << k) + low;
    if (at >= trits) return Malformed("a trit lies past the tile");
    uint8_t& code = tile[at / kTritsPerByte];
    const int place = kPlace[at % kTritsPerByte];
    const int old = code / place % 3;
    code = static_cast<uint8_t>(code + ((old + 1 + bit) % 3 - old) * place);
    ++at;
  }
  if (!bits.AtEnd()) return Malformed("bytes are left over");
  return absl::OkStatus();
}

}  // namespace omni
