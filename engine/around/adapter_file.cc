// Adapters as bytes: docs/formats/adapter.md.
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

std::string Adapter::Write() const {
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
  header.nats_before = origin_.nats_before;
  header.nats = origin_.nats;
  header.drift = origin_.drift;
  header.tokens = origin_.tokens;
  header.held_out_tokens = origin_.held_out_tokens;
  std::memcpy(header.model_hash, model_hash_.data(), std::min(kHashBytes, model_hash_.size()));
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  for (const std::vector<float>& block : blocks_)
    bytes.append(reinterpret_cast<const char*>(block.data()), block.size() * sizeof(float));
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
  Adapter adapter;
  adapter.d_ = header.d;
  adapter.vocab_ = header.vocab;
  adapter.layers_ = header.layers;
  adapter.attention_period_ = header.attention_period;
  adapter.experts_ = header.experts;
  adapter.parts_ = {header.bias == 1, header.gain == 1, header.head_rank,
                    static_cast<AdaptLayers>(header.layer_change), header.positions == 1};
  adapter.model_hash_.assign(header.model_hash, kHashBytes);
  adapter.model_hash_.resize(std::strlen(adapter.model_hash_.c_str()));
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
    std::memcpy(block.data(), bytes.data(), block.size() * sizeof(float));
    bytes.remove_prefix(block.size() * sizeof(float));
    for (float value : block) {
      if (!std::isfinite(value)) return absl::InvalidArgumentError("adapter: a value is not finite");
    }
  }
  adapter.MakeFrozen();
  return adapter;
}

}  // namespace omni
