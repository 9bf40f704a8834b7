#include "store/format/shared_layout.h"

#include <algorithm>
#include <cstring>

#include <absl/strings/str_cat.h>

#include "store/file/bytes.h"
#include "store/file/hash.h"

namespace omni {
namespace {

constexpr char kMagic[8] = {'O', 'M', 'N', 'I', 'S', 'H', 'R', 'D'};
constexpr uint32_t kVersion = 1;
constexpr int64_t kHeaderBytes = 32;
constexpr int64_t kEntryBytes = 96;
constexpr size_t kNameBytes = 48;
constexpr int64_t kSectionAlignment = 64;

absl::Status Damaged(const std::string& path, absl::string_view what) {
  return absl::DataLossError(
      absl::StrCat(path, ": ", what, "; the file is damaged: copy it again or pack the model again"));
}

std::string EncodeEntry(const SharedSection& s) {
  std::string out = s.name;
  out.resize(kNameBytes, '\0');
  PutField(&out, static_cast<uint32_t>(s.kind));
  PutField(&out, uint32_t{0});
  PutField(&out, static_cast<uint64_t>(s.rows));
  PutField(&out, static_cast<uint64_t>(s.cols));
  PutField(&out, static_cast<uint64_t>(s.offset));
  PutField(&out, static_cast<uint64_t>(s.bytes));
  PutField(&out, s.checksum);
  return out;
}

class Builder {
 public:
  explicit Builder(std::vector<SharedSection>* out) : out_(out) {}
  void Floats(const std::string& name, int64_t rows, int64_t cols) {
    out_->push_back({name, SectionKind::kFloat32, rows, cols, 0, 4 * rows * cols, 0});
  }
  void Bytes(const std::string& name, int64_t rows, int64_t cols) {
    out_->push_back({name, SectionKind::kBytes, rows, cols, 0, rows * cols, 0});
  }
  void TwoBit(const std::string& name, int64_t rows, int64_t cols) {
    out_->push_back({name, SectionKind::kTwoBit, rows, cols, 0, TwoBitBytes(rows, cols), 0});
    Floats(name + ".scale", 1, PadTo(rows, kernels::kTwoBitRows));
  }
  void Int8(const std::string& name, int64_t rows, int64_t cols) {
    out_->push_back({name, SectionKind::kInt8, rows, cols, 0, rows * PadTo(cols, 64), 0});
    Floats(name + ".scale", 1, rows);
  }

 private:
  std::vector<SharedSection>* out_;
};

class Binder {
 public:
  Binder(const SharedLayout& layout, const uint8_t* file) : layout_(layout), file_(file) {}

  const float* Floats(const std::string& name) const {
    return reinterpret_cast<const float*>(file_ + layout_.Find(name).offset);
  }
  const uint8_t* Bytes(const std::string& name) const { return file_ + layout_.Find(name).offset; }
  TwoBitLinear TwoBit(const std::string& name) const {
    const SharedSection& s = layout_.Find(name);
    TwoBitLinear linear;
    linear.m.base = file_ + s.offset;
    linear.m.num_blocks = PadTo(s.cols, kernels::kTernaryCols) / kernels::kTernaryCols;
    linear.m.num_groups = PadTo(s.rows, kernels::kTwoBitRows) / kernels::kTwoBitRows;
    linear.scale = Floats(name + ".scale");
    linear.rows = s.rows;
    linear.cols = s.cols;
    return linear;
  }
  kernels::Int8Matrix Int8(const std::string& name) const {
    const SharedSection& s = layout_.Find(name);
    const int64_t padded = PadTo(s.cols, 64);
    return {reinterpret_cast<const int8_t*>(file_ + s.offset), padded, padded, s.rows};
  }

 private:
  const SharedLayout& layout_;
  const uint8_t* file_;
};

}  // namespace

int64_t TwoBitBytes(int64_t rows, int64_t cols) {
  return PadTo(rows, kernels::kTwoBitRows) / kernels::kTwoBitRows * PadTo(cols, 64);
}

SharedLayout::SharedLayout(const ModelConfig& c) {
  Builder add(&sections);
  add.Int8("embed", c.vocab, c.d);
  add.Floats("norm_out", 1, c.d);
  for (int64_t l = 0; l < c.layers; ++l) {
    const std::string p = absl::StrCat("layers.", l, ".");
    add.Floats(p + "norm1", 1, c.d);
    add.Floats(p + "norm2", 1, c.d);
    if (c.IsAttention(l)) {
      const int64_t kv = c.kv_heads * c.head_dim();
      add.TwoBit(p + "wq", c.d, c.d);
      add.TwoBit(p + "wk", kv, c.d);
      add.TwoBit(p + "wv", kv, c.d);
      add.TwoBit(p + "wo", c.d, c.d);
      add.TwoBit(p + "gate", c.f, c.d);
      add.TwoBit(p + "up", c.f, c.d);
      add.TwoBit(p + "down", c.d, c.f);
      continue;
    }
    add.TwoBit(p + "wp", c.d, c.d);
    add.Floats(p + "bp", 1, c.d);
    add.TwoBit(p + "wk", c.r, c.d);
    add.TwoBit(p + "wq", c.r, c.d);
    add.TwoBit(p + "wv", c.d, c.d);
    add.TwoBit(p + "wo", c.d, c.d);
    if (c.readout_norm) add.Floats(p + "norm_readout", 1, c.d);
    add.Floats(p + "route", 3, c.d);
    add.Floats(p + "positions", c.num_experts(), 3);
    if (c.route_bias) add.Floats(p + "route_bias", 1, c.num_experts());
    if (c.route_from == RouteFrom::kAddress) add.Bytes(p + "members", 1, c.vocab);
  }
  table_bytes = PadTo(kHeaderBytes + kEntryBytes * static_cast<int64_t>(sections.size()), kSectionAlignment);
  file_bytes = table_bytes;
  for (SharedSection& s : sections) {
    s.offset = file_bytes;
    file_bytes += PadTo(s.bytes, kSectionAlignment);
  }
}

const SharedSection& SharedLayout::Find(const std::string& name) const {
  return *std::find_if(sections.begin(), sections.end(),
                       [&](const SharedSection& s) { return s.name == name; });
}

std::string SharedLayout::EncodeTable() const {
  std::string entries;
  for (const SharedSection& s : sections) entries += EncodeEntry(s);
  std::string out(kMagic, sizeof kMagic);
  PutField(&out, kVersion);
  PutField(&out, static_cast<uint32_t>(sections.size()));
  PutField(&out, static_cast<uint64_t>(file_bytes));
  PutField(&out, Checksum64(entries.data(), entries.size()));
  out += entries;
  out.resize(static_cast<size_t>(table_bytes), '\0');
  return out;
}

absl::Status SharedLayout::ReadTable(const std::string& path, const uint8_t* table) {
  FieldReader header({reinterpret_cast<const char*>(table), static_cast<size_t>(table_bytes)});
  std::string_view magic, entries;
  uint32_t version = 0, count = 0;
  uint64_t size = 0, table_checksum = 0;
  header.GetBytes(sizeof kMagic, &magic);
  header.Get(&version);
  header.Get(&count);
  header.Get(&size);
  header.Get(&table_checksum);
  if (magic != std::string_view(kMagic, sizeof kMagic)) return Damaged(path, "does not begin with OMNISHRD");
  if (version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": format version ", version,
                                                      ", this program reads ", kVersion,
                                                      "; use a matching program or pack the model again"));
  }
  if (count != sections.size() || size != static_cast<uint64_t>(file_bytes) ||
      !header.GetBytes(sections.size() * kEntryBytes, &entries) ||
      Checksum64(entries.data(), entries.size()) != table_checksum) {
    return Damaged(path, "the section table fails its checksum or is another model's");
  }
  for (size_t i = 0; i < sections.size(); ++i) {
    SharedSection& s = sections[i];
    const std::string_view entry = entries.substr(i * kEntryBytes, kEntryBytes);
    std::memcpy(&s.checksum, entry.data() + kEntryBytes - sizeof s.checksum, sizeof s.checksum);
    if (EncodeEntry(s) != entry) {
      return Damaged(path,
                     absl::StrCat("section ", i, " is not ", s.name, " as model.json's config describes it"));
    }
  }
  return absl::OkStatus();
}

absl::Status SharedLayout::Verify(const std::string& path, const uint8_t* file) {
  if (absl::Status s = ReadTable(path, file); !s.ok()) return s;
  for (const SharedSection& s : sections) {
    if (Checksum64(file + s.offset, static_cast<size_t>(s.bytes)) != s.checksum) {
      return Damaged(path, absl::StrCat("section ", s.name, " fails its checksum"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelWeights> BindShared(const ModelConfig& config, const SharedLayout& layout,
                                        const std::string& path, const uint8_t* file) {
  const Binder bind(layout, file);
  ModelWeights w;
  w.config = config;
  w.embedding = bind.Int8("embed");
  w.embedding_scale = bind.Floats("embed.scale");
  w.norm_out = bind.Floats("norm_out");
  w.layers.resize(static_cast<size_t>(config.layers));
  for (int64_t l = 0; l < config.layers; ++l) {
    const std::string p = absl::StrCat("layers.", l, ".");
    LayerWeights& layer = w.layers[static_cast<size_t>(l)];
    layer.norm1 = bind.Floats(p + "norm1");
    layer.norm2 = bind.Floats(p + "norm2");
    layer.wq = bind.TwoBit(p + "wq");
    layer.wk = bind.TwoBit(p + "wk");
    layer.wv = bind.TwoBit(p + "wv");
    layer.wo = bind.TwoBit(p + "wo");
    if (config.IsAttention(l)) {
      layer.gate = bind.TwoBit(p + "gate");
      layer.up = bind.TwoBit(p + "up");
      layer.down = bind.TwoBit(p + "down");
      continue;
    }
    layer.wp = bind.TwoBit(p + "wp");
    layer.bp = bind.Floats(p + "bp");
    if (config.readout_norm) layer.norm_readout = bind.Floats(p + "norm_readout");
    layer.route = bind.Floats(p + "route");
    layer.positions = bind.Floats(p + "positions");
    if (config.route_bias) layer.route_bias = bind.Floats(p + "route_bias");
    if (config.route_from == RouteFrom::kAddress) layer.members = bind.Bytes(p + "members");
  }
  if (absl::Status status = CheckWeights(w); !status.ok()) {
    return absl::DataLossError(absl::StrCat(path, ": ", status.message(), "; pack the model again"));
  }
  return w;
}

}  // namespace omni
