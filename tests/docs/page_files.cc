#include "tests/docs/page_files.h"

#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <xxhash.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>
#include <stdexcept>
#include <string_view>

#include <nlohmann/json.hpp>

namespace omni::page {
namespace {

using Json = nlohmann::json;

void Require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

std::string FileBytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  Require(in.good(), path + " cannot be read");
  return {std::istreambuf_iterator<char>(in), {}};
}

uint64_t Checksum(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

// 32 digits, the high half first.
std::string Hash(std::string_view bytes) {
  const XXH128_hash_t h = XXH3_128bits(bytes.data(), bytes.size());
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(h.high64),
                static_cast<unsigned long long>(h.low64));
  return text;
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t To64(int64_t n) { return CeilDiv(n, 64) * 64; }

// Fields one after the other.
class Reader {
 public:
  Reader(std::string_view bytes, std::string what) : bytes_(bytes), what_(std::move(what)) {}
  template <typename T>
  T Get() {
    T value;
    std::memcpy(&value, Bytes(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view Bytes(size_t n) {
    Require(n <= bytes_.size(), what_ + " is cut short");
    const std::string_view out = bytes_.substr(0, n);
    bytes_.remove_prefix(n);
    return out;
  }
  std::string HashDigits() {  // two u64, the high half first
    char text[33];
    const auto high = Get<uint64_t>(), low = Get<uint64_t>();
    std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(high),
                  static_cast<unsigned long long>(low));
    return text;
  }
  std::string_view rest() const { return bytes_; }

 private:
  std::string_view bytes_;
  std::string what_;
};

Json ReadSealed(const std::string& path, const std::string& format, int newest) {
  std::string text = FileBytes(path);
  const Json json = Json::parse(text);
  const std::string checksum = json.at("checksum");
  const size_t at = text.find(checksum);  // it is the first key
  text.replace(at, 32, std::string(32, '0'));
  Require(Hash(text) == checksum, path + " fails its checksum");
  const int version = json.at("version");
  Require(json.at("format") == format && version >= 1 && version <= newest, path + " is of another format");
  return json;
}

Config ReadConfig(const Json& j) {
  Config c{};
  const std::pair<const char*, int64_t*> integers[] = {
      {"layers", &c.layers}, {"attention_period", &c.attention_period},
      {"d", &c.d},           {"r", &c.r},
      {"f", &c.f},           {"heads", &c.heads},
      {"window", &c.window}, {"kv_heads", &c.kv_heads},
      {"vocab", &c.vocab},   {"state_norm_period", &c.state_norm_period}};
  for (const auto& [key, value] : integers) *value = j.at(key);
  c.lattice = j.at("lattice");
  c.region = j.at("region");
  c.key_scale = j.at("key_scale");
  c.readout_norm = j.at("readout_norm");
  c.decay_floor = static_cast<float>(j.at("decay_floor").get<double>());
  c.rope_theta = j.at("rope_theta");
  if (!j.contains("route_from")) return c;
  c.route_from = j.at("route_from");
  c.slow_rate = static_cast<float>(j.at("slow_rate").get<double>());
  c.route_bias = j.at("route_bias");
  return c;
}

std::string PackName(size_t number) {
  char name[32];
  std::snprintf(name, sizeof name, "packs/tiles-%03zu.bin", number);
  return name;
}

// A section of shared.bin.
struct Section {
  std::string name;
  uint32_t kind;
  int64_t rows, cols;
};

// The order that the page gives.
std::vector<Section> SectionsOf(const Config& c) {
  enum : uint32_t { kFloat, kInt8, kTwoBit, kBytes };
  std::vector<Section> out;
  const auto floats = [&](const std::string& name, int64_t rows, int64_t cols) {
    out.push_back({name, kFloat, rows, cols});
  };
  const auto two_bit = [&](const std::string& name, int64_t rows, int64_t cols) {
    out.push_back({name, kTwoBit, rows, cols});
    floats(name + ".scale", 1, CeilDiv(rows, 4) * 4);
  };
  out.push_back({"embed", kInt8, c.vocab, c.d});
  floats("embed.scale", 1, c.vocab);
  floats("norm_out", 1, c.d);
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const std::string p = "layers." + std::to_string(layer) + ".";
    const int64_t kv = c.kv_heads * c.head();
    floats(p + "norm1", 1, c.d);
    floats(p + "norm2", 1, c.d);
    if (c.IsAttention(layer)) {
      two_bit(p + "wq", c.d, c.d);
      two_bit(p + "wk", kv, c.d);
      two_bit(p + "wv", kv, c.d);
      two_bit(p + "wo", c.d, c.d);
      two_bit(p + "gate", c.f, c.d);
      two_bit(p + "up", c.f, c.d);
      two_bit(p + "down", c.d, c.f);
      continue;
    }
    two_bit(p + "wp", c.d, c.d);
    floats(p + "bp", 1, c.d);
    two_bit(p + "wk", c.r, c.d);
    two_bit(p + "wq", c.r, c.d);
    two_bit(p + "wv", c.d, c.d);
    two_bit(p + "wo", c.d, c.d);
    if (c.readout_norm) floats(p + "norm_readout", 1, c.d);
    floats(p + "route", 3, c.d);
    floats(p + "positions", c.experts(), 3);
    if (c.route_bias) floats(p + "route_bias", 1, c.experts());
    if (c.route_from == "address") out.push_back({p + "members", kBytes, 1, c.vocab});
  }
  return out;
}

Matrix Int8Matrix(const Section& s, std::string_view bytes) {
  Matrix m{s.rows, s.cols, {}, {}};
  for (int64_t row = 0; row < s.rows; ++row) {
    for (int64_t col = 0; col < s.cols; ++col) {
      m.weights.push_back(static_cast<int8_t>(bytes[static_cast<size_t>(row * To64(s.cols) + col)]));
    }
  }
  return m;
}

Matrix TwoBitMatrix(const Section& s, std::string_view bytes) {
  Matrix m{s.rows, s.cols, {}, {}};
  for (int64_t row = 0; row < s.rows; ++row) {
    for (int64_t col = 0; col < s.cols; ++col) {
      const int64_t block = (row / 4 * (To64(s.cols) / 64) + col / 64) * 64;
      const int code =
          static_cast<uint8_t>(bytes[static_cast<size_t>(block + col % 64)]) >> 2 * (row % 4) & 3;
      m.weights.push_back(static_cast<int8_t>(2 * code - 3));
    }
  }
  return m;
}

Floats FloatsOf(std::string_view bytes) {
  Floats out(bytes.size() / 4);
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

// An info log that goes nowhere.
class NoLog : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

uint32_t BigEndian(std::string_view bytes) {
  uint32_t v = 0;
  for (char c : bytes) v = v << 8 | static_cast<uint8_t>(c);
  return v;
}

class BitStream {
 public:
  explicit BitStream(std::string_view bytes) : bytes_(bytes) {}
  int Next() {
    Require(at_ / 8 < bytes_.size(), "a scattered delta is cut short");
    const int bit = static_cast<uint8_t>(bytes_[at_ / 8]) >> at_ % 8 & 1;
    ++at_;
    return bit;
  }
  void RequireEnd() {
    while (at_ % 8 != 0) Require(Next() == 0, "a scattered delta's padding is not zero");
    Require(at_ / 8 == bytes_.size(), "a scattered delta has bytes left over");
  }

 private:
  std::string_view bytes_;
  size_t at_ = 0;
};

// `tile` begins as the keyframe's; its scales begin at `scales`.
void ApplyScattered(std::string_view delta, size_t scales, std::string* tile) {
  Reader in(delta, "a scattered delta");
  for (int left = in.Get<uint8_t>(); left > 0; --left) {
    const size_t index = in.Get<uint8_t>();
    const float value = in.Get<float>();
    Require(index < 128, "a scale's index is out of range");
    std::memcpy(tile->data() + scales + 4 * index, &value, 4);
  }
  const auto changes = in.Get<uint32_t>();
  const int k = in.Get<uint8_t>();
  BitStream bits(in.rest());
  size_t at = 0;  // the next trit
  for (uint32_t i = 0; i < changes; ++i) {
    size_t high = 0, low = 0;
    while (bits.Next() == 1) ++high;
    for (int b = 0; b < k; ++b) low |= static_cast<size_t>(bits.Next()) << b;
    at += high << k | low;
    const int b = bits.Next();
    Require(at < 5 * scales, "a trit that changes lies outside the tile");
    constexpr int kPower[5] = {1, 3, 9, 27, 81};
    const int power = kPower[at % 5], code = static_cast<uint8_t>((*tile)[at / 5]), t = code / power % 3;
    (*tile)[at / 5] = static_cast<char>(code + ((t + 1 + b) % 3 - t) * power);
    ++at;
  }
  bits.RequireEnd();
}

int8_t TritAt(const std::string& tile, int64_t byte, int64_t place) {
  int code = static_cast<uint8_t>(tile[static_cast<size_t>(byte)]);
  Require(code <= 242, "an invalid code of trits");
  for (; place > 0; --place) code /= 3;
  return static_cast<int8_t>(code % 3 - 1);
}

}  // namespace

int64_t ModelFiles::Payload() const { return 26 * To64(config_.d) + CeilDiv(config_.d, 5) * 64 + 512; }

ModelFiles::ModelFiles(const std::string& dir) {
  ReadManifests(dir);
  ReadShared(shared_);
  ReadTables(dir);
}

void ModelFiles::ReadManifests(const std::string& dir) {
  const Json model = ReadSealed(dir + "/model.json", "omni-model", 2);
  const Json deltas = ReadSealed(dir + "/deltas.json", "omni-deltas", 1);
  config_ = ReadConfig(model.at("config"));
  model_hash_ = model.at("model_hash");
  delta_digest_ = model.at("deltas").at("xxh3_128");
  delta_keys_ = model.at("deltas").at("keys");
  Require(deltas.at("xxh3_128") == delta_digest_, "deltas.json is another model's");

  Require(model.at("version") == (model.at("config").contains("route_from") ? 2 : 1),
          "model.json is of another version than its config");
  std::string identity = "omni-model " + model.at("version").dump() + "\n";
  identity += "config " + Hash(model.at("config").dump()) + "\n";
  std::set<std::string> listed = {"model.json", "deltas.json"};
  std::map<std::string, std::string> bytes;
  for (const Json* manifest : {&model, &deltas}) {
    for (const auto& [name, file] : manifest->at("files").items()) {
      listed.insert(name);
      bytes[name] = FileBytes(dir + "/" + name);
      Require(file.at("bytes") == bytes[name].size() && file.at("xxh3_128") == Hash(bytes[name]),
              name + " is not as its manifest has it");
      if (manifest == &model) identity += name + " " + file.at("xxh3_128").get<std::string>() + "\n";
    }
  }
  identity += "deltas " + delta_digest_ + "\n";
  Require(Hash(identity) == model_hash_, "the model hash differs");
  for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
    const std::string name = std::filesystem::relative(entry.path(), dir).string();
    const bool beside = name == "calibration.json";  // no part of the model: what fits it, by its hash
    Require(entry.is_directory() || beside || listed.count(name) > 0, name + " is not listed");
  }
  tokenizer_ = bytes.at("tokenizer.omni");
  shared_ = bytes.at("shared.bin");
  for (size_t number = 0; bytes.count(PackName(number)) > 0; ++number) ReadPack(bytes[PackName(number)]);
}

void ModelFiles::ReadShared(const std::string& bytes) {
  const std::vector<Section> sections = SectionsOf(config_);
  Reader header(bytes, "shared.bin");
  Require(header.Bytes(8) == "OMNISHRD" && header.Get<uint32_t>() == 1, "shared.bin is of another format");
  Require(header.Get<uint32_t>() == sections.size() && header.Get<uint64_t>() == bytes.size(),
          "shared.bin has other sections or another size");
  const auto table_checksum = header.Get<uint64_t>();
  const std::string_view table = header.Bytes(96 * sections.size());
  Require(Checksum(table) == table_checksum, "shared.bin's table fails its checksum");
  size_t end = static_cast<size_t>(To64(32 + static_cast<int64_t>(table.size())));
  for (size_t i = 0; i < sections.size(); ++i) {
    const Section& s = sections[i];
    Reader entry(table.substr(96 * i, 96), "a section's entry");
    const std::string_view name = entry.Bytes(48);
    Require(name.substr(0, name.find('\0')) == s.name, "section " + s.name + " is another one");
    Require(entry.Get<uint32_t>() == s.kind && entry.Get<uint32_t>() == 0, s.name + " is of another kind");
    Require(entry.Get<uint64_t>() == static_cast<uint64_t>(s.rows) &&
                entry.Get<uint64_t>() == static_cast<uint64_t>(s.cols),
            s.name + " is of another shape");
    const auto offset = entry.Get<uint64_t>(), size = entry.Get<uint64_t>();
    Require(offset == end && offset + size <= bytes.size(), s.name + " lies elsewhere");
    const std::string_view data = std::string_view(bytes).substr(offset, size);
    Require(Checksum(data) == entry.Get<uint64_t>(), s.name + " fails its checksum");
    end = static_cast<size_t>(To64(static_cast<int64_t>(offset + size)));
    if (s.kind == 1) matrices_[s.name] = Int8Matrix(s, data);
    if (s.kind == 2) matrices_[s.name] = TwoBitMatrix(s, data);
    if (s.kind == 0) floats_[s.name] = FloatsOf(data);
    if (s.kind == 3) bytes_[s.name] = data;
  }
  Require(end == bytes.size(), "shared.bin has bytes left over");
  for (auto& [name, matrix] : matrices_) {
    matrix.scale = floats_.at(name + ".scale");
    matrix.scale.resize(static_cast<size_t>(matrix.rows));  // without the padding
  }
}

void ModelFiles::ReadPack(const std::string& bytes) {
  Reader header(bytes, "a pack");
  Require(header.Bytes(8) == "OMNITILE" && header.Get<uint32_t>() == 1 && header.Get<uint32_t>() == 64,
          "a pack is of another format");
  const auto payload = header.Get<uint64_t>(), alignment = header.Get<uint64_t>(),
             stride = header.Get<uint64_t>(), first = header.Get<uint64_t>(), tiles = header.Get<uint64_t>();
  Require(header.Get<uint64_t>() == Checksum(std::string_view(bytes).substr(0, 56)),
          "a pack's header fails its checksum");
  Require(payload == static_cast<uint64_t>(Payload()), "a pack's tiles are of another size");
  Require(stride == (payload + alignment - 1) / alignment * alignment &&
              first == (64 + alignment - 1) / alignment * alignment && bytes.size() == first + tiles * stride,
          "a pack's tiles lie elsewhere");
  packs_.push_back(bytes);
}

int64_t ModelFiles::KeyframeOf(int64_t expert) const {
  const auto& [X, Y, Z] = config_.lattice;
  const auto& [x, y, z] = config_.region;
  const int64_t i = expert % X / x * x, j = expert / X % Y / y * y, k = expert / X / Y / z * z;
  return i + X * (j + Y * k);
}

void ModelFiles::ReadTables(const std::string& dir) {
  rocksdb::Options options;
  options.info_log = std::make_shared<NoLog>();
  options.max_open_files = 512;
  rocksdb::DB* opened = nullptr;
  const rocksdb::Status status = rocksdb::DB::OpenForReadOnly(options, dir + "/deltas", &opened);
  Require(status.ok(), status.ToString());
  const std::unique_ptr<rocksdb::DB> db(opened);
  const std::unique_ptr<rocksdb::Iterator> entry(db->NewIterator(rocksdb::ReadOptions()));

  const int64_t tiles = CeilDiv(config_.f, 64);
  const size_t scales = static_cast<size_t>(Payload() - 512);
  std::string digested;
  int64_t keys = 0;
  // Keys sort by layer and expert, and the keyframe has the lowest id of its region: it comes first.
  for (entry->SeekToFirst(); entry->Valid(); entry->Next(), ++keys) {
    const std::string key = entry->key().ToString(), value = entry->value().ToString();
    for (const std::string* part : {&key, &value}) {
      const uint32_t length = static_cast<uint32_t>(part->size());
      digested.append(reinterpret_cast<const char*>(&length), 4);
      digested += *part;
    }
    Require(key.size() == 8, "a key is not of 8 bytes");
    const int64_t layer = BigEndian(std::string_view(key).substr(0, 4)),
                  expert = BigEndian(std::string_view(key).substr(4));
    Require(layer < config_.layers && !config_.IsAttention(layer) && expert < config_.experts(),
            "a key of no expert");

    Reader in(value, "a table");
    const auto stored = [&] {
      const std::string hash = in.HashDigits();
      const auto pack = in.Get<uint32_t>();
      const auto offset = in.Get<uint64_t>(), checksum = in.Get<uint64_t>();
      Require(pack < packs_.size(), "a reference to a pack that is not there");
      const std::string tile = packs_[pack].substr(offset, static_cast<size_t>(Payload()));
      Require(Hash(tile) == hash && Checksum(tile) == checksum, "a tile fails its checksum");
      return tile;
    };
    const auto kind = in.Get<uint8_t>();
    const auto count = in.Get<uint32_t>();
    std::vector<std::string>& table = tiles_[{layer, expert}];
    if (kind == 0) {
      Require(count == tiles, "a whole table of another length");
      for (uint32_t i = 0; i < count; ++i) table.push_back(stored());
      counts_.whole += count;
    } else {
      Require(kind == 1 && expert != KeyframeOf(expert), "a keyframe is not whole");
      table = tiles_.at({layer, KeyframeOf(expert)});
      counts_.unchanged += tiles - count;
      for (uint32_t i = 0; i < count; ++i) {
        std::string& tile = table.at(in.Get<uint32_t>());
        if (in.Get<uint8_t>() == 0) {
          tile = stored();
          ++counts_.stored;
          continue;
        }
        const auto checksum = in.Get<uint64_t>();
        const std::string hash = in.HashDigits();
        ApplyScattered(in.Bytes(in.Get<uint32_t>()), scales, &tile);
        Require(Hash(tile) == hash && Checksum(tile) == checksum, "a scattered delta makes another tile");
        ++counts_.scattered;
      }
    }
    Require(in.rest().empty(), "a table has bytes left over");
  }
  Require(entry->status().ok() && keys == delta_keys_, "the database has another number of keys");
  Require(Hash(digested) == delta_digest_, "the database's digest differs");
}

ExpertNeurons ModelFiles::Expert(int64_t layer, int64_t expert) const {
  const int64_t d = config_.d, d_pad = To64(d), down = 26 * d_pad, scales = Payload() - 512;
  const std::vector<std::string>& tiles = tiles_.at({layer, expert});
  ExpertNeurons out;
  for (int64_t neuron = 0; neuron < config_.f; ++neuron) {
    const std::string& tile = tiles.at(static_cast<size_t>(neuron / 64));
    const int64_t n = neuron % 64, gate = 2 * n, up = 2 * n + 1;
    for (int64_t i = 0; i < d; ++i) {
      out.gate.push_back(TritAt(tile, gate / 5 * d_pad + i, gate % 5));
      out.up.push_back(TritAt(tile, up / 5 * d_pad + i, up % 5));
      out.down.push_back(TritAt(tile, down + i / 5 * 64 + n, i % 5));
    }
    float s_g = 0, s_u = 0;
    std::memcpy(&s_g, tile.data() + scales + 4 * n, 4);
    std::memcpy(&s_u, tile.data() + scales + 256 + 4 * n, 4);
    out.s_g.push_back(s_g);
    out.s_u.push_back(s_u);
  }
  return out;
}

}  // namespace omni::page
