// Adapters as bytes: docs/formats/adapter.md.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include <absl/strings/str_cat.h>
#include <xxhash.h>

#include "engine/around/adapter.h"

namespace omni {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[8] = {'O', 'M', 'N', 'I', 'A', 'D', 'P', 'T'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kMostWidth = 65536, kMostVocab = 1 << 24, kMostLayers = 1024, kMostExperts = 65536;
constexpr size_t kHashBytes = 32;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t d, vocab, layers, attention_period, experts;
  uint32_t bias, gain, head_rank, layer_change, positions;
  float nats_before, nats, drift;
  int64_t tokens, held_out_tokens;
  char model_hash[kHashBytes];
};
static_assert(sizeof(Header) == 112);

}  // namespace

std::string Adapter::Write() const { return Bytes(origin_, true); }

// Without what it was learned from.
std::string Adapter::Hash() const {
  const std::string bytes = Bytes({}, false);
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return absl::StrCat(absl::Hex(hash.high64, absl::kZeroPad16), absl::Hex(hash.low64, absl::kZeroPad16));
}

std::string Adapter::Bytes(const AdapterOrigin& origin, bool with_checksum) const {
  Header header = {};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.d = d_;
  header.vocab = vocab_;
  header.layers = layers_;
  header.attention_period = attention_period_;
  header.experts = experts_;
  header.bias = parts_.bias;
  header.gain = parts_.gain;
  header.head_rank = static_cast<uint32_t>(parts_.head_rank);
  header.layer_change = static_cast<uint32_t>(parts_.layers);
  header.positions = parts_.positions;
  header.nats_before = origin.nats_before;
  header.nats = origin.nats;
  header.drift = origin.drift;
  header.tokens = origin.tokens;
  header.held_out_tokens = origin.held_out_tokens;
  std::memcpy(header.model_hash, model_hash_.data(), std::min(kHashBytes, model_hash_.size()));
  std::string bytes;
  bytes.reserve(sizeof(header) + static_cast<size_t>(size()) * sizeof(float) + sizeof(uint64_t));
  bytes.append(reinterpret_cast<const char*>(&header), sizeof(header));
  for (const std::vector<float>& block : blocks_)
    bytes.append(reinterpret_cast<const char*>(block.data()), block.size() * sizeof(float));
  if (!with_checksum) return bytes;
  const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  return bytes;
}

absl::StatusOr<Adapter> Adapter::Read(std::string_view bytes) {
  Header header;
  uint64_t checksum;
  if (bytes.size() < sizeof(kMagic) || std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0)
    return absl::InvalidArgumentError("adapter: these bytes do not begin with OMNIADPT");
  if (bytes.size() < sizeof(header) + sizeof(checksum))
    return absl::DataLossError("adapter: the bytes end too early; learn it anew");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.version != kVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapter: version ", header.version, ", this program reads version ", kVersion));
  }
  std::memcpy(&checksum, bytes.data() + bytes.size() - sizeof(checksum), sizeof(checksum));
  bytes.remove_suffix(sizeof(checksum));
  if (checksum != XXH3_64bits(bytes.data(), bytes.size()))
    return absl::DataLossError("adapter: the checksum fails; the bytes are cut or altered, learn it anew");
  if (header.d < 1 || header.d > kMostWidth || header.vocab < 1 || header.vocab > kMostVocab ||
      header.layers < 1 || header.layers > kMostLayers || header.attention_period < 1 ||
      header.experts > kMostExperts || header.head_rank > header.d || header.bias > 1 || header.gain > 1 ||
      header.layer_change > static_cast<uint32_t>(AdaptLayers::kLora) || header.positions > 1) {
    return absl::InvalidArgumentError("adapter: shapes or parts that no model's adapter has");
  }
  const auto hash_bytes = static_cast<size_t>(
      std::find(header.model_hash, header.model_hash + kHashBytes, '\0') - header.model_hash);
  if (std::any_of(header.model_hash + hash_bytes, header.model_hash + kHashBytes,
                  [](char c) { return c != '\0'; }) ||
      std::any_of(header.model_hash, header.model_hash + hash_bytes,
                  [](char c) { return c < ' ' || c > '~'; })) {
    return absl::InvalidArgumentError("adapter: its model's hash is none");
  }
  if (!std::isfinite(header.nats_before) || !std::isfinite(header.nats) || !std::isfinite(header.drift) ||
      header.tokens < 0 || header.held_out_tokens < 0) {
    return absl::InvalidArgumentError("adapter: what it says of its origin is no number");
  }
  Adapter adapter;
  adapter.d_ = header.d;
  adapter.vocab_ = header.vocab;
  adapter.layers_ = header.layers;
  adapter.attention_period_ = header.attention_period;
  adapter.experts_ = header.experts;
  adapter.parts_ = {header.bias == 1, header.gain == 1, header.head_rank,
                    static_cast<AdaptLayers>(header.layer_change), header.positions == 1};
  adapter.model_hash_.assign(header.model_hash, hash_bytes);
  adapter.origin_ = {header.tokens, header.held_out_tokens, header.nats_before, header.nats, header.drift};
  // What the header promises is compared with what is there before any of it is made.
  const double pdr = header.layers - header.layers / header.attention_period, width = header.d;
  double values = header.bias * double{1} * header.vocab + header.gain * width + width * header.head_rank +
                  header.positions * pdr * 3 * header.experts;
  if (adapter.parts_.layers == AdaptLayers::kCores)
    values += 2.0 * header.layers + pdr * kAdapterRank * kAdapterRank;
  if (adapter.parts_.layers == AdaptLayers::kLora)
    values += 2.0 * header.layers + 2 * pdr * width * kAdapterRank;
  bytes.remove_prefix(sizeof(header));
  if (values * sizeof(float) != static_cast<double>(bytes.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("adapter: ", bytes.size(), " bytes of values, its parts have ", values, " values"));
  }
  adapter.MakeShape();
  for (std::vector<float>& block : adapter.blocks_) {
    std::copy_n(bytes.data(), block.size() * sizeof(float),
                reinterpret_cast<char*>(block.data()));  // may be none
    bytes.remove_prefix(block.size() * sizeof(float));
    for (float value : block) {
      if (!std::isfinite(value)) return absl::InvalidArgumentError("adapter: a value is not finite");
    }
  }
  adapter.MakeFrozen();
  return adapter;
}

}  // namespace omni
