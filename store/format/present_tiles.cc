#include "store/format/present_tiles.h"

#include <algorithm>
#include <bit>
#include <utility>

#include <absl/strings/str_cat.h>

#include "store/file/bytes.h"

namespace omni {
namespace {

constexpr char kMagic[8] = {'O', 'M', 'N', 'I', 'P', 'A', 'R', 'T'};
constexpr uint32_t kVersion = 1;
constexpr int64_t kMostTiles = (int64_t{1} << 32) - 1;

}  // namespace

PresentTiles::PresentTiles(std::vector<int64_t> tiles) : first_({0}) {
  for (const int64_t count : tiles) first_.push_back(first_.back() + count);
  bits_.resize(static_cast<size_t>((first_.back() + 7) / 8));
}

PresentTiles PresentTiles::ForPacks(std::span<const PackHeader> packs) {
  std::vector<int64_t> tiles;
  for (const PackHeader& pack : packs) tiles.push_back(pack.count);
  return PresentTiles(std::move(tiles));
}

int64_t PresentTiles::Number(TilePlace place) const {
  if (place.pack >= first_.size() - 1) return -1;
  const int64_t number = first_[place.pack] + place.tile;
  return number < first_[place.pack + 1] ? number : -1;
}

TilePlace PresentTiles::Place(int64_t number) const {
  const auto pack = std::upper_bound(first_.begin(), first_.end(), number) - first_.begin() - 1;
  return {static_cast<uint32_t>(pack), static_cast<uint32_t>(number - first_[static_cast<size_t>(pack)])};
}

void PresentTiles::Set(int64_t number, bool present) {
  if (Has(number) == present) return;
  bits_[Byte(number)] = static_cast<uint8_t>(bits_[Byte(number)] ^ 1u << (number % 8));
  count_ += present ? 1 : -1;
}

std::string PresentTiles::Encode(const Hash128& model) const {
  std::string out(kMagic, sizeof kMagic);
  PutField(&out, kVersion);
  PutField(&out, static_cast<uint32_t>(first_.size() - 1));
  PutField(&out, model.high);
  PutField(&out, model.low);
  for (size_t pack = 1; pack < first_.size(); ++pack)
    PutField(&out, static_cast<uint64_t>(first_[pack] - first_[pack - 1]));
  out.append(reinterpret_cast<const char*>(bits_.data()), bits_.size());
  PutField(&out, Checksum64(out.data(), out.size()));
  return out;
}

absl::StatusOr<PresentTiles> PresentTiles::Parse(const std::string& path, std::string_view bytes,
                                                 const Hash128& model) {
  const auto bad = [&](absl::string_view what) {
    return absl::DataLossError(
        absl::StrCat(path, ": ", what, "; remove the directory and let it be filled again"));
  };
  FieldReader reader(bytes);
  std::string_view magic;
  uint32_t version = 0, packs = 0;
  if (!reader.GetBytes(sizeof kMagic, &magic) || magic != std::string_view(kMagic, sizeof kMagic))
    return bad("does not begin with OMNIPART");
  if (!reader.Get(&version) || version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": format version ", version, ", this program reads ", kVersion, "; use a matching program"));
  }
  uint64_t checksum = 0;
  if (bytes.size() < sizeof checksum ||
      !FieldReader(bytes.substr(bytes.size() - sizeof checksum)).Get(&checksum) ||
      Checksum64(bytes.data(), bytes.size() - sizeof checksum) != checksum) {
    return bad("fails its checksum");
  }
  Hash128 of;
  reader.Get(&packs);
  if (!reader.Get(&of.high) || !reader.Get(&of.low)) return bad("is too short");
  if (of != model) return bad("is of another model than the model.json beside it");
  if (reader.rest().size() / sizeof(uint64_t) < packs) return bad("is too short");
  std::vector<int64_t> tiles;
  uint64_t all = 0;
  for (uint32_t pack = 0; pack < packs; ++pack) {
    uint64_t count = 0;
    reader.Get(&count);
    if (count > kMostTiles - all) return bad("names more tiles than a model has");
    all += count;
    tiles.push_back(static_cast<int64_t>(count));
  }
  std::string_view bits;
  if (!reader.GetBytes(static_cast<size_t>((all + 7) / 8), &bits) || reader.rest().size() != sizeof checksum)
    return bad("is of the wrong length");
  PresentTiles present(std::move(tiles));
  std::copy(bits.begin(), bits.end(), present.bits_.begin());
  if (all % 8 != 0 && present.bits_.back() >> (all % 8) != 0) return bad("has bits of no tile");
  for (const uint8_t byte : present.bits_) present.count_ += std::popcount(byte);
  return present;
}

}  // namespace omni
