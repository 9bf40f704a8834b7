#include "tests/testing/random_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <absl/strings/str_cat.h>

namespace omni::testing {
namespace {

uint64_t Mix(uint64_t a, uint64_t b) { return Random(a ^ (b * 0x9e3779b97f4a7c15)).Next(); }

// `low .. high` around 1, so that a forgotten or swapped gain shows.
std::vector<float> Uniforms(Random& random, int64_t n, float low, float high) {
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = random.Uniform(low, high);
  return x;
}

PlainLinear MakeLinear(Random& random, int64_t rows, int64_t cols) {
  PlainLinear linear{rows, cols, {}, {}};
  linear.levels.resize(static_cast<size_t>(rows * cols));
  for (int8_t& level : linear.levels) level = static_cast<int8_t>(2 * random.Below(4) - 3);
  // Levels have variance 5.
  const float unit = 1.0f / std::sqrt(5.0f * static_cast<float>(cols));
  for (int64_t i = 0; i < rows; ++i) linear.scale.push_back(unit * random.Uniform(0.7f, 1.3f));
  return linear;
}

// Cell centres of the lattice, each moved a little.
std::vector<float> MakePositions(Random& random, const ModelConfig& c) {
  std::vector<float> positions;
  for (int64_t e = 0; e < c.num_experts(); ++e) {
    const int64_t cell[3] = {e % c.lattice[0], e / c.lattice[0] % c.lattice[1],
                             e / c.lattice[0] / c.lattice[1]};
    for (int axis = 0; axis < 3; ++axis) {
      const float width = 1.0f / static_cast<float>(c.lattice[axis]);
      positions.push_back((static_cast<float>(cell[axis]) + random.Uniform(0.3f, 0.7f)) * width);
    }
  }
  return positions;
}

}  // namespace

uint64_t Random::Next() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

float Random::Uniform(float low, float high) {
  return low + (high - low) * (static_cast<float>(Next() >> 40) * 0x1p-24f);
}

float Random::Normal() {
  float sum = -6.0f;
  for (int i = 0; i < 12; ++i) sum += Uniform(0.0f, 1.0f);
  return sum;
}

ModelConfig TinyConfig() { return *Preset("tiny"); }

ModelConfig OddConfig() {
  ModelConfig c;
  c.layers = 5;
  c.d = 100, c.r = 12, c.f = 130;
  c.heads = 2, c.kv_heads = 1, c.window = 7;
  c.vocab = 259;
  c.lattice = {3, 2, 1}, c.region = {3, 1, 1};
  return c;
}

ModelConfig FlaglessConfig() {
  ModelConfig c;
  c.layers = 4;
  c.attention_period = 2;
  c.d = 72, c.r = 20, c.f = 64;
  c.heads = 6, c.kv_heads = 3, c.window = 5;
  c.vocab = 257;
  c.lattice = {5, 1, 1}, c.region = {1, 1, 1};
  c.key_scale = false;
  c.readout_norm = false;
  c.decay_floor = -0.5f;
  c.state_norm_period = 5;
  return c;
}

ModelConfig AheadConfig() {
  ModelConfig c = OddConfig();
  c.route_from = RouteFrom::kAhead;
  c.slow_rate = 0.3f;
  c.route_bias = true;
  return c;
}

ModelConfig AddressConfig() {
  ModelConfig c = TinyConfig();
  c.f = 256;
  c.vocab = 307;  // Tiny's 300 draws weights of which one code flips, see decoder_test's reference test
  c.base_neurons = 64, c.member_neurons = 64, c.own_neurons = 64;
  c.route_from = RouteFrom::kAddress;
  c.slow_rate = 0.0625f;
  return c;
}

RandomModel::RandomModel(const ModelConfig& config, uint64_t seed) : seed_(seed) {
  weights_.config = config;
  const int64_t d = config.d, d_pad = PadTo(d, 64), kv = config.kv_heads * config.head_dim();
  Random random(seed);
  int8_t* embedding = embedding_.Reserve(config.vocab * d_pad);
  std::memset(embedding, 0, static_cast<size_t>(config.vocab * d_pad));
  for (int64_t token = 0; token < config.vocab; ++token) {
    for (int64_t i = 0; i < d; ++i)
      embedding[token * d_pad + i] = static_cast<int8_t>(random.Below(255) - 127);
  }
  weights_.embedding = {embedding, d_pad, d_pad, config.vocab};
  embedding_scale_ = Uniforms(random, config.vocab, 0.6f / 73, 1.4f / 73);  // 73: deviation of -127 .. 127
  norm_out_ = Uniforms(random, d, 0.5f, 1.5f);
  weights_.embedding_scale = embedding_scale_.data();
  weights_.norm_out = norm_out_.data();

  const size_t experts = static_cast<size_t>(config.num_experts());
  plain_.resize(static_cast<size_t>(config.layers));
  weights_.layers.resize(plain_.size());
  tiles_.resize(plain_.size() * experts);
  tile_tables_.resize(tiles_.size());
  for (int64_t l = 0; l < config.layers; ++l) {
    PlainLayer& plain = plain_[static_cast<size_t>(l)];
    LayerWeights& layer = weights_.layers[static_cast<size_t>(l)];
    plain.norm1 = Uniforms(random, d, 0.5f, 1.5f);
    plain.norm2 = Uniforms(random, d, 0.5f, 1.5f);
    layer.norm1 = plain.norm1.data();
    layer.norm2 = plain.norm2.data();
    const bool attention = config.IsAttention(l);
    plain.wq = MakeLinear(random, attention ? d : config.r, d);
    plain.wk = MakeLinear(random, attention ? kv : config.r, d);
    plain.wv = MakeLinear(random, attention ? kv : d, d);
    plain.wo = MakeLinear(random, d, d);
    layer.wq = Pack(plain.wq);
    layer.wk = Pack(plain.wk);
    layer.wv = Pack(plain.wv);
    layer.wo = Pack(plain.wo);
    if (attention) {
      plain.gate = MakeLinear(random, config.f, d);
      plain.up = MakeLinear(random, config.f, d);
      plain.down = MakeLinear(random, d, config.f);
      layer.gate = Pack(plain.gate);
      layer.up = Pack(plain.up);
      layer.down = Pack(plain.down);
      continue;
    }
    plain.wp = MakeLinear(random, d, d);
    layer.wp = Pack(plain.wp);
    plain.bp = Uniforms(random, d, -2.0f, 3.0f);
    layer.bp = plain.bp.data();
    if (config.readout_norm) {
      plain.norm_readout = Uniforms(random, d, 0.5f, 1.5f);
      layer.norm_readout = plain.norm_readout.data();
    }
    plain.route = Uniforms(random, 3 * d, -0.2f, 0.2f);
    plain.positions = MakePositions(random, config);
    layer.route = plain.route.data();
    layer.positions = plain.positions.data();
    if (config.route_bias) {
      plain.route_bias = Uniforms(random, config.num_experts(), -0.02f, 0.02f);
      layer.route_bias = plain.route_bias.data();
    }
    if (config.route_from == RouteFrom::kAddress) {
      for (int64_t token = 0; token < config.vocab; ++token)
        plain.members.push_back(static_cast<uint8_t>(random.Below(config.experts_per_region())));
      layer.members = plain.members.data();
    }
    for (size_t e = 0; e < experts; ++e) {
      PackExpert(LayerId(static_cast<int32_t>(l)), ExpertId(static_cast<int32_t>(e)));
    }
  }
}

TwoBitLinear RandomModel::Pack(const PlainLinear& plain) {
  TwoBitLinear linear;
  linear.rows = plain.rows;
  linear.cols = plain.cols;
  linear.scale = plain.scale.data();
  linear.m.num_blocks = PadTo(plain.cols, 64) / 64;
  linear.m.num_groups = PadTo(plain.rows, 4) / 4;
  const int64_t cols = linear.m.num_blocks * 64;
  uint8_t* bytes = matrices_.emplace_back().Reserve(linear.m.num_groups * cols);
  // Padding carries codes too (0, the level -3): padded inputs meet x = 0, padded rows are nobody's.
  std::memset(bytes, 0, static_cast<size_t>(linear.m.num_groups * cols));
  for (int64_t row = 0; row < plain.rows; ++row) {
    for (int64_t col = 0; col < plain.cols; ++col) {
      const int code = (plain.levels[static_cast<size_t>(row * plain.cols + col)] + 3) / 2;
      bytes[row / 4 * cols + col] |= static_cast<uint8_t>(code << (2 * (row % 4)));
    }
  }
  linear.m.base = bytes;
  return linear;
}

PlainExpert RandomModel::MakeExpert(LayerId layer, ExpertId expert) const {
  const int64_t d = config().d, f = config().f;
  Random random(
      Mix(Mix(seed_, static_cast<uint64_t>(layer.value) + 1), static_cast<uint64_t>(expert.value) + 1));
  PlainExpert plain;
  for (std::vector<int8_t>* trits : {&plain.gate, &plain.up, &plain.down}) {
    trits->resize(static_cast<size_t>(f * d));
    uint64_t bits = 0;
    int left = 0;
    for (int8_t& trit : *trits) {
      if (left == 0) bits = random.Next(), left = 32;
      trit = static_cast<int8_t>(static_cast<int>(bits % 3) - 1);
      bits /= 3;
      --left;
    }
  }
  // Trits have variance 2/3; up's scale carries down's too.
  const float unit = 1.0f / std::sqrt(static_cast<float>(d) / 1.5f);
  const float down = 1.0f / std::sqrt(static_cast<float>(f) / 1.5f);
  for (int64_t n = 0; n < f; ++n) {
    plain.gate_scale.push_back(unit * random.Uniform(0.7f, 1.3f));
    plain.up_scale.push_back(unit * down * random.Uniform(1.4f, 2.6f));
  }
  return plain;
}

void RandomModel::PackExpert(LayerId layer, ExpertId expert) {
  const int64_t d = config().d, f = config().f;
  const TileLayout layout(d);
  const PlainExpert plain = MakeExpert(layer, expert);
  const int64_t stride = PadTo(layout.payload(), 64), count = TilesPerExpert(config());
  const size_t index = layer.index() * static_cast<size_t>(config().num_experts()) + expert.index();
  uint8_t* bytes = tiles_[index].Reserve(stride * count);
  static constexpr int kPower[5] = {1, 3, 9, 27, 81};
  for (int64_t t = 0; t < count; ++t) {
    uint8_t* tile = bytes + t * stride;
    std::memset(tile, kernels::kTernaryZeroCode, static_cast<size_t>(layout.gate_scale_offset()));
    std::memset(tile + layout.gate_scale_offset(), 0,
                static_cast<size_t>(stride - layout.gate_scale_offset()));
    const int64_t neurons = std::min(kTileNeurons, f - t * kTileNeurons);
    for (int64_t n = 0; n < neurons; ++n) {
      const size_t neuron = static_cast<size_t>(t * kTileNeurons + n);
      for (int64_t i = 0; i < d; ++i) {
        const size_t at = neuron * static_cast<size_t>(d) + static_cast<size_t>(i);
        const auto add = [&](int64_t group, int64_t block, int64_t byte, int64_t lane, int8_t trit,
                             int64_t group_bytes, uint8_t* base) {
          uint8_t& code = base[group * group_bytes + block * 64 + byte];
          code = static_cast<uint8_t>(code + trit * kPower[lane]);
        };
        const int64_t gate_row = 2 * n, up_row = 2 * n + 1;
        add(gate_row / 5, i / 64, i % 64, gate_row % 5, plain.gate[at], layout.d_pad, tile);
        add(up_row / 5, i / 64, i % 64, up_row % 5, plain.up[at], layout.d_pad, tile);
        add(i / 5, 0, n, i % 5, plain.down[at], 64, tile + layout.down_offset());
      }
      std::memcpy(tile + layout.gate_scale_offset() + 4 * n, &plain.gate_scale[neuron], 4);
      std::memcpy(tile + layout.up_scale_offset() + 4 * n, &plain.up_scale[neuron], 4);
    }
    tile_tables_[index].push_back(tile);
  }
}

absl::StatusOr<ExpertTiles> RandomModel::Acquire(LayerId layer, ExpertId expert) {
  const size_t index = layer.index() * static_cast<size_t>(config().num_experts()) + expert.index();
  if (expert.value < 0 || expert.value >= config().num_experts() || index >= tile_tables_.size() ||
      tile_tables_[index].empty()) {
    return absl::NotFoundError(absl::StrCat("no expert ", expert.value, " in layer ", layer.value));
  }
  return ExpertTiles{tile_tables_[index], nullptr};
}

std::vector<TokenId> RandomTokens(int64_t n, int64_t vocab, uint64_t seed) {
  Random random(seed);
  std::vector<TokenId> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.emplace_back(static_cast<int32_t>(random.Below(vocab)));
  return tokens;
}

}  // namespace omni::testing
