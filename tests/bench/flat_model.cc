#include "tests/bench/flat_model.h"

#include <cstring>
#include <fstream>
#include <unordered_map>

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

constexpr char kMagic[8] = {'O', 'M', 'N', 'I', 'F', 'L', 'A', 'T'};

struct Header {
  char magic[8];
  int64_t config_bytes, shared_bytes, tiles, payload, table, tokens;
};

}  // namespace

absl::Status WriteFlatModel(const std::string& path, const ModelConfig& config, const std::string& shared,
                            ExpertSource& experts, const std::vector<TokenId>& tokens) {
  const int64_t payload = TileLayout(config.d).payload();
  std::unordered_map<std::string, uint32_t> number;
  std::vector<uint32_t> table;
  std::string tiles;
  for (int64_t l = 0; l < config.layers; ++l) {
    for (int64_t e = 0; !config.IsAttention(l) && e < config.num_experts(); ++e) {
      const auto here = experts.Acquire(LayerId(static_cast<int32_t>(l)), ExpertId(static_cast<int32_t>(e)));
      if (!here.ok()) return here.status();
      for (const uint8_t* tile : here->tiles) {
        std::string bytes(reinterpret_cast<const char*>(tile), static_cast<size_t>(payload));
        const auto [it, is_new] = number.emplace(bytes, static_cast<uint32_t>(number.size()));
        if (is_new) tiles += bytes;
        table.push_back(it->second);
      }
    }
  }
  const std::string text = ToJson(config);
  Header header{{},
                static_cast<int64_t>(text.size()),
                static_cast<int64_t>(shared.size()),
                static_cast<int64_t>(number.size()),
                payload,
                static_cast<int64_t>(table.size()),
                static_cast<int64_t>(tokens.size())};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&header), sizeof(header));
  out << text << shared << tiles;
  out.write(reinterpret_cast<const char*>(table.data()), static_cast<std::streamsize>(table.size() * 4));
  for (TokenId token : tokens) out.write(reinterpret_cast<const char*>(&token.value), 4);
  out.close();
  if (!out) return absl::UnavailableError(absl::StrCat(path, ": it could not be written"));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<FlatModel>> FlatModel::Read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  Header header = {};
  in.read(reinterpret_cast<char*>(&header), sizeof(header));
  if (!in || std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": it is no flat model"));
  }
  auto model = std::make_unique<FlatModel>();
  std::string text(static_cast<size_t>(header.config_bytes), '\0');
  in.read(text.data(), header.config_bytes);
  absl::StatusOr<ModelConfig> config = ConfigFromJson(text);
  if (!config.ok()) return config.status();
  const SharedLayout layout(*config);
  const int64_t payload = TileLayout(config->d).payload();
  if (header.shared_bytes != layout.file_bytes || header.payload != payload || payload % 8 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": its sizes are not its config's"));
  }
  const auto read = [&](std::vector<uint64_t>& to, int64_t bytes) {
    to.resize(static_cast<size_t>(bytes + 7) / 8 + 8);  // room to begin at 64 bytes
    auto* at = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(to.data()) + 63) / 64 * 64);
    in.read(at, bytes);
    return reinterpret_cast<const uint8_t*>(at);
  };
  const uint8_t* shared = read(model->shared_, header.shared_bytes);
  const uint8_t* tiles = read(model->tiles_, header.tiles * payload);
  std::vector<uint32_t> table(static_cast<size_t>(header.table));
  in.read(reinterpret_cast<char*>(table.data()), header.table * 4);
  for (int64_t i = 0; i < header.tokens; ++i) {
    int32_t token = 0;
    in.read(reinterpret_cast<char*>(&token), 4);
    model->tokens_.push_back(TokenId(token));
  }
  if (!in) return absl::DataLossError(absl::StrCat(path, ": it ends early"));
  absl::StatusOr<ModelWeights> weights = BindShared(*config, layout, path, shared);
  if (!weights.ok()) return weights.status();
  model->weights_ = *std::move(weights);
  for (uint32_t tile : table) {
    if (tile >= header.tiles)
      return absl::DataLossError(absl::StrCat(path, ": it names a tile that it lacks"));
    model->table_.push_back(tiles + tile * payload);
  }
  int64_t with_experts = 0;
  for (int64_t l = 0; l < config->layers; ++l)
    model->number_of_layer_.push_back(config->IsAttention(l) ? -1 : with_experts++);
  if (header.table != with_experts * config->num_experts() * TilesPerExpert(*config)) {
    return absl::DataLossError(absl::StrCat(path, ": its table of tiles is not its config's"));
  }
  return model;
}

absl::StatusOr<ExpertTiles> FlatModel::Acquire(LayerId layer, ExpertId expert) {
  const ModelConfig& config = weights_.config;
  const int64_t tiles = TilesPerExpert(config);
  const int64_t first = (number_of_layer_[layer.index()] * config.num_experts() + expert.value) * tiles;
  return ExpertTiles{std::span(table_).subspan(static_cast<size_t>(first), static_cast<size_t>(tiles)),
                     nullptr};
}

}  // namespace omni
