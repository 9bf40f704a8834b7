#include "store/pack/synth_source.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

#include "engine/model/neuron_groups.h"
#include "engine/text/tokenizer.h"
#include "kernels/op.h"
#include "store/file/hash.h"
#include "store/format/tile.h"

namespace omni {
namespace {

constexpr int64_t kTileRows = 2 * kTileNeurons;  // of gate and up

// Random bytes, 64 at a time from eight generators in step (xorshift128+), which a compiler turns into
// vectors.
class RandomBytes {
 public:
  RandomBytes(uint64_t seed, uint64_t a, uint64_t b, uint64_t c) {
    const uint64_t key[4] = {seed, a, b, c};
    const Hash128 hash = ContentHash(key, sizeof key);
    uint64_t x = hash.high ^ hash.low;
    for (int i = 0; i < kLanes; ++i) s0_[i] = Mix(x), s1_[i] = Mix(x);
  }

  void Fill(uint8_t* out, int64_t bytes) {
    for (; bytes > 0; bytes -= kStep, out += kStep) {
      uint64_t words[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        uint64_t a = s0_[i];
        const uint64_t b = s1_[i];
        words[i] = a + b;
        s0_[i] = b;
        a ^= a << 23;
        s1_[i] = a ^ b ^ (a >> 18) ^ (b >> 5);
      }
      std::memcpy(out, words, static_cast<size_t>(std::min<int64_t>(bytes, kStep)));
    }
  }

 private:
  static constexpr int kLanes = 8;
  static constexpr int64_t kStep = 8 * kLanes;
  static uint64_t Mix(uint64_t& x) {  // splitmix64
    uint64_t z = x += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  uint64_t s0_[kLanes], s1_[kLanes];
};

// Trits [first, 5) of a byte become 0.
uint8_t ClearTrits(uint8_t code, int64_t first) {
  int value = 0;
  for (int64_t i = 0, power = 1; i < kernels::kTernaryRows; ++i, power *= 3) {
    value += static_cast<int>((i < first ? code / power % 3 : 1) * power);
  }
  return static_cast<uint8_t>(value);
}

class Synthetic : public PackSource {
 public:
  Synthetic(const ModelConfig& config, uint64_t seed)
      : config_(config),
        seed_(seed),
        layout_(config.d),
        groups_(NeuronGroups(config)),
        tile_(static_cast<size_t>(layout_.payload())) {}

  const ModelConfig& config() const override { return config_; }
  std::string TokenizerBytes() const override {
    return Tokenizer::Train("", 257)->Serialize();
  }  // bytes alone
  absl::StatusOr<std::string> Section(const SharedSection& section) override;
  absl::StatusOr<const uint8_t*> Tile(LayerId layer, ExpertId expert, int64_t tile) override;
  bool EqualsKeyframe(LayerId, ExpertId expert, int64_t tile) const override {
    if (config_.IndexInRegion(expert) == 0) return true;
    const NeuronKind kind = GroupOf(tile).kind;
    return kind == NeuronKind::kBase || kind == NeuronKind::kRegion;
  }
  bool tiles_resemble() const override { return false; }

 private:
  std::string Floats(const SharedSection& section) const;
  std::string Members(const SharedSection& section) const;
  const NeuronGroup& GroupOf(int64_t tile) const {
    return *std::find_if(groups_.begin(), groups_.end(), [&](const NeuronGroup& group) {
      return tile * kTileNeurons < group.first + group.count;
    });
  }

  ModelConfig config_;
  uint64_t seed_;
  TileLayout layout_;
  std::vector<NeuronGroup> groups_;
  std::vector<uint8_t> tile_;
};

std::string Synthetic::Floats(const SharedSection& section) const {
  const auto d = static_cast<float>(config_.d);
  std::vector<float> values(static_cast<size_t>(section.rows * section.cols), 1.0f);
  const std::string& name = section.name;
  if (absl::EndsWith(name, ".positions")) {
    const auto& lattice = config_.lattice;
    for (int64_t e = 0; e < config_.num_experts(); ++e) {
      const std::array<int64_t, 3> cell = {e % lattice[0], e / lattice[0] % lattice[1],
                                           e / lattice[0] / lattice[1]};
      for (size_t axis = 0; axis < 3; ++axis) {
        values[static_cast<size_t>(3 * e) + axis] =
            (static_cast<float>(cell[axis]) + 0.5f) / static_cast<float>(lattice[axis]);
      }
    }
  } else if (absl::EndsWith(name, ".route")) {
    std::vector<uint8_t> bytes(values.size() * 12);
    RandomBytes(seed_, ContentHash(name).low, 1, 0).Fill(bytes.data(), static_cast<int64_t>(bytes.size()));
    // The slow state of rows that know nothing of each other varies by alpha / (2 - alpha).
    const float alpha = config_.slow_rate;
    const float spread = config_.has_slow_state() ? 0.25f * std::sqrt((2 - alpha) / alpha) : 1.0f;
    for (size_t i = 0; i < values.size(); ++i) {  // twelve uniform bytes: near enough to a normal variable
      float sum = 0;
      for (size_t j = 0; j < 12; ++j) sum += static_cast<float>(bytes[12 * i + j]);
      values[i] = (sum - 12 * 127.5f) / 256.0f / std::sqrt(d) * spread;
    }
  } else if (absl::EndsWith(name, ".bp") || absl::EndsWith(name, ".route_bias")) {
    std::fill(values.begin(), values.end(), 0.0f);
  } else if (name == "embed.scale") {
    std::fill(values.begin(), values.end(), 1.0f / 73);  // of uniform int8: unit size
  } else if (absl::EndsWith(name, ".scale")) {
    const bool down = absl::EndsWith(name, ".down.scale");
    const auto columns = static_cast<float>(down ? config_.f : config_.d);
    std::fill(values.begin(), values.end(),
              1.0f / std::sqrt(5.0f * columns));  // levels have the mean square 5
    int64_t rows = 0;
    for (const SharedSection& s : SharedLayout(config_).sections) {
      if (s.name + ".scale" == name) rows = s.rows;
    }
    std::fill(values.begin() + rows, values.end(), 0.0f);
  }
  std::string bytes(values.size() * 4, '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Each token's, at random.
std::string Synthetic::Members(const SharedSection& section) const {
  std::string bytes(static_cast<size_t>(section.bytes), '\0');
  auto* data = reinterpret_cast<uint8_t*>(bytes.data());
  RandomBytes(seed_, ContentHash(section.name).low, 2, 0).Fill(data, section.bytes);
  for (int64_t i = 0; i < section.bytes; ++i)
    data[i] = static_cast<uint8_t>(data[i] % config_.experts_per_region());
  return bytes;
}

absl::StatusOr<std::string> Synthetic::Section(const SharedSection& section) {
  if (section.kind == SectionKind::kBytes) return Members(section);
  if (section.kind == SectionKind::kFloat32) return Floats(section);
  std::string bytes(static_cast<size_t>(section.bytes), '\0');
  auto* data = reinterpret_cast<uint8_t*>(bytes.data());
  RandomBytes(seed_, ContentHash(section.name).low, 0, 0).Fill(data, section.bytes);
  const int64_t padded = PadTo(section.cols, 64);
  if (section.kind == SectionKind::kInt8) {
    for (int64_t i = 0; i < section.bytes; ++i) {
      if (data[i] == 0x80 || i % padded >= section.cols) data[i] = 0;
    }
    return bytes;
  }
  // Two-bit padding is code 0: columns beyond the last, and rows of the last group.
  for (int64_t i = 0; section.cols != padded && i < section.bytes; ++i) {
    if (i % padded >= section.cols) data[i] = 0;
  }
  if (const int64_t live = section.rows % kernels::kTwoBitRows; live != 0) {
    for (int64_t i = section.bytes - padded; i < section.bytes; ++i)
      data[i] &= static_cast<uint8_t>((1 << 2 * live) - 1);
  }
  return bytes;
}

absl::StatusOr<const uint8_t*> Synthetic::Tile(LayerId layer, ExpertId expert, int64_t tile) {
  // What experts have in common is the first one's.
  const NeuronGroup& group = GroupOf(tile);
  const ExpertId owner = group.FirstWith(config_, group.CopyOf(config_, expert));
  const int64_t codes = layout_.gate_scale_offset();
  uint8_t* out = tile_.data();
  RandomBytes(seed_, static_cast<uint64_t>(layer.value) << 32 | static_cast<uint64_t>(owner.value),
              static_cast<uint64_t>(tile), 2)
      .Fill(out, codes);
  // 243 … 255 are no codes: another byte's turn comes as often again, which is as random as it need be.
  for (int64_t i = 0; i < codes; ++i) out[i] = static_cast<uint8_t>(out[i] > 242 ? out[i] - 128 : out[i]);
  const int64_t neurons = std::min(kTileNeurons, config_.f - tile * kTileNeurons);
  const auto clear_rows = [](uint8_t* group, int64_t from, int64_t to, int64_t live) {
    for (int64_t j = from; j < to; ++j) group[j] = ClearTrits(group[j], live);
  };
  const int64_t gate_groups = (kTileRows + kernels::kTernaryRows - 1) / kernels::kTernaryRows;
  for (int64_t g = 0; g < gate_groups; ++g) {
    uint8_t* group = out + g * layout_.d_pad;
    clear_rows(group, config_.d, layout_.d_pad, 0);
    const int64_t live =
        std::clamp<int64_t>(2 * neurons - g * kernels::kTernaryRows, 0, kernels::kTernaryRows);
    if (live < kernels::kTernaryRows) clear_rows(group, 0, config_.d, live);
  }
  for (int64_t g = 0; g < layout_.down_groups(); ++g) {
    uint8_t* group = out + layout_.down_offset() + g * kernels::kTernaryBlockBytes;
    clear_rows(group, neurons, kernels::kTernaryBlockBytes, 0);
    const int64_t live = std::min<int64_t>(config_.d - g * kernels::kTernaryRows, kernels::kTernaryRows);
    if (live < kernels::kTernaryRows) clear_rows(group, 0, neurons, live);
  }
  float scales[2 * kTileNeurons] = {};
  const float gate = std::sqrt(1.5f / static_cast<float>(config_.d));  // trits have the mean square 2/3
  std::fill_n(scales, neurons, gate);
  std::fill_n(scales + kTileNeurons, neurons, gate * std::sqrt(1.5f / static_cast<float>(config_.f)));
  std::memcpy(out + layout_.gate_scale_offset(), scales, sizeof scales);
  return out;
}

}  // namespace

SynthRoutes RoutesOf(const ModelConfig& config) {
  const auto share = [&](int64_t neurons) {
    return static_cast<double>(neurons) / static_cast<double>(TilesPerExpert(config) * kTileNeurons);
  };
  return {config.route_from, config.slow_rate, share(config.base_neurons), share(config.member_neurons)};
}

absl::StatusOr<ModelConfig> SynthConfig(const std::string& preset, int64_t layers, int64_t experts,
                                        double delta, const SynthRoutes& routes) {
  absl::StatusOr<ModelConfig> config = Preset(preset);
  if (!config.ok()) return config.status();
  if (layers > 0) config->layers = layers;
  while (experts > 0 && config->num_experts() > experts) {
    int64_t& longest = *std::max_element(config->lattice.begin(), config->lattice.end());
    if (longest % 2 != 0) break;
    longest /= 2;
  }
  if (experts > 0 && config->num_experts() != experts) {
    return absl::InvalidArgumentError(absl::StrCat(experts, " experts cannot be had by halving the edges of ",
                                                   preset, "'s lattice; give a power of two from 8 to ",
                                                   Preset(preset)->num_experts()));
  }
  const int64_t tiles = TilesPerExpert(*config);
  const auto share = [&](double of) { return std::llround(of * static_cast<double>(tiles)); };
  const int64_t own = share(delta), base = share(routes.base), member = share(routes.member);
  if (own + base + member > tiles) {
    return absl::InvalidArgumentError(
        "the shares of own, base and member tiles are more than 1 together; make one of them smaller");
  }
  // The last tile may not be full.
  config->own_neurons = own == 0 ? 0 : config->f - (tiles - own) * kTileNeurons;
  config->base_neurons = std::min(base * kTileNeurons, config->f);
  config->member_neurons = member * kTileNeurons;
  if (own == 0 && member > 0) config->member_neurons = config->f - (tiles - member) * kTileNeurons;
  config->route_from = routes.route_from;
  config->slow_rate = routes.slow_rate;
  if (absl::Status s = Validate(*config); !s.ok()) return s;
  return config;
}

std::unique_ptr<PackSource> SyntheticSource(const ModelConfig& config, uint64_t seed) {
  return std::make_unique<Synthetic>(config, seed);
}

int64_t SynthBytes(const ModelConfig& config, bool whole) {
  const TileLayout layout(config.d);
  const int64_t alignment = layout.payload() >= (int64_t{64} << 10) ? 4096 : 64;
  int64_t expert_layers = 0;
  for (int64_t l = 0; l < config.layers; ++l) expert_layers += !config.IsAttention(l);
  const int64_t stored = whole ? config.num_experts() * TilesPerExpert(config) : UniqueTilesPerLayer(config);
  return SharedLayout(config).file_bytes + expert_layers * stored * PadTo(layout.payload(), alignment);
}

}  // namespace omni
