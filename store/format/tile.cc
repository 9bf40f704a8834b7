#include "store/format/tile.h"

#include <cstdio>
#include <cstring>

#include <absl/strings/str_cat.h>

#include "store/file/bytes.h"

namespace omni {
namespace {

absl::Status FailsChecksum() {
  return absl::DataLossError(
      "fails its checksum; the file is damaged: copy it again or pack the model again");
}

constexpr char kMagic[8] = {'O', 'M', 'N', 'I', 'T', 'I', 'L', 'E'};
constexpr uint32_t kVersion = 1;
constexpr int kPlace[5] = {1, 3, 9, 27, 81};

}  // namespace

TileBuilder::TileBuilder(int64_t width) : layout_(width) { Clear(); }

void TileBuilder::Clear() {
  bytes_.assign(static_cast<size_t>(layout_.gate_scale_offset()),
                static_cast<char>(kernels::kTernaryZeroCode));
  bytes_.resize(static_cast<size_t>(layout_.payload()), '\0');
}

// A fresh code is five zero trits, so a trit adds itself times its place.
void TileBuilder::AddRow(int64_t row, const int8_t* trits) {
  char* group = bytes_.data() + row / 5 * layout_.d_pad;
  const int place = kPlace[row % 5];
  for (int64_t j = 0; j < layout_.d; ++j) group[j] = static_cast<char>(group[j] + trits[j] * place);
}

void TileBuilder::SetNeuron(int64_t n, const int8_t* gate, const int8_t* up, const int8_t* down,
                            float gate_scale, float up_scale) {
  AddRow(2 * n, gate);
  AddRow(2 * n + 1, up);
  char* column = bytes_.data() + layout_.down_offset() + n;
  for (int64_t i = 0; i < layout_.d; ++i) {
    char& code = column[i / 5 * kTileNeurons];
    code = static_cast<char>(code + down[i] * kPlace[i % 5]);
  }
  std::memcpy(bytes_.data() + layout_.gate_scale_offset() + 4 * n, &gate_scale, 4);
  std::memcpy(bytes_.data() + layout_.up_scale_offset() + 4 * n, &up_scale, 4);
}

PackHeader PackHeader::For(int64_t payload, int64_t alignment) {
  PackHeader h;
  h.payload = payload;
  h.alignment = alignment;
  h.stride = PadTo(payload, alignment);
  h.first_offset = PadTo(kBytes, alignment);
  return h;
}

int64_t PackHeader::TileAt(uint64_t offset) const {
  const uint64_t first = static_cast<uint64_t>(first_offset), step = static_cast<uint64_t>(stride);
  if (offset < first || (offset - first) % step != 0) return -1;
  const uint64_t tile = (offset - first) / step;
  return tile < static_cast<uint64_t>(count) ? static_cast<int64_t>(tile) : -1;
}

std::string PackHeader::Encode() const {
  std::string out(kMagic, sizeof kMagic);
  PutField(&out, kVersion);
  PutField(&out, static_cast<uint32_t>(kTileNeurons));
  for (int64_t v : {payload, alignment, stride, first_offset, count})
    PutField(&out, static_cast<uint64_t>(v));
  PutField(&out, Checksum64(out.data(), out.size()));
  return out;
}

absl::StatusOr<PackHeader> PackHeader::Parse(const std::string& path, const uint8_t* bytes, int64_t payload) {
  const std::string_view head(reinterpret_cast<const char*>(bytes), kBytes);
  FieldReader reader(head);
  std::string_view magic;
  uint32_t version = 0, neurons = 0;
  reader.GetBytes(sizeof kMagic, &magic);
  reader.Get(&version);
  reader.Get(&neurons);
  PackHeader h;
  for (int64_t* v : {&h.payload, &h.alignment, &h.stride, &h.first_offset, &h.count}) {
    uint64_t wide = 0;
    reader.Get(&wide);
    *v = static_cast<int64_t>(wide);
  }
  uint64_t checksum = 0;
  reader.Get(&checksum);
  const auto damaged = [&](absl::string_view what) {
    return absl::DataLossError(
        absl::StrCat(path, ": ", what, "; the file is damaged: copy it again or pack the model again"));
  };
  if (magic != std::string_view(kMagic, sizeof kMagic)) return damaged("does not begin with OMNITILE");
  if (version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": format version ", version,
                                                      ", this program reads ", kVersion,
                                                      "; use a matching program or pack the model again"));
  }
  if (Checksum64(head.data(), kBytes - sizeof checksum) != checksum)
    return damaged("the header fails its checksum");
  const bool sane = neurons == kTileNeurons && h.payload == payload && h.alignment >= 64 &&
                    h.alignment <= (int64_t{1} << 30) && (h.alignment & (h.alignment - 1)) == 0 &&
                    h.count >= 0 && h.stride == PadTo(payload, h.alignment) &&
                    h.first_offset == PadTo(kBytes, h.alignment) &&
                    h.count <= (INT64_MAX - h.first_offset) / h.stride;
  if (!sane) return damaged("the header describes tiles of another shape than model.json's config");
  return h;
}

std::string PackName(uint32_t pack) {
  char name[32];
  std::snprintf(name, sizeof name, "packs/tiles-%03u.bin", pack);
  return name;
}

absl::Status CheckTileContent(const TileLayout& layout, const TileRef& ref, const uint8_t* tile) {
  const size_t bytes = static_cast<size_t>(layout.payload());
  if (Checksum64(tile, bytes) != ref.checksum || ContentHash(tile, bytes) != ref.hash) {
    return FailsChecksum();
  }
  return CheckTileCodes(layout, tile);
}

absl::Status CheckTileSum(const TileLayout& layout, const TileRef& ref, const uint8_t* tile) {
  if (Checksum64(tile, static_cast<size_t>(layout.payload())) != ref.checksum) return FailsChecksum();
  return absl::OkStatus();
}

absl::Status CheckTileRead(const TileLayout& layout, const TileRef& ref, const uint8_t* tile) {
  if (absl::Status s = CheckTileSum(layout, ref, tile); !s.ok()) return s;
  return CheckTileCodes(layout, tile);
}

absl::Status CheckTileCodes(const TileLayout& layout, const uint8_t* tile) {
  const absl::Status status = CheckTile(layout, tile);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(
      absl::StrCat("holds what no model may: ", status.message(), "; pack the model again"));
}

}  // namespace omni
