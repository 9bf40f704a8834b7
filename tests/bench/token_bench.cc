// One full-size token with everything in memory: seeded random weights of a preset's shape, as many experts
// of each layer as the budget holds, one session. Prints measured tokens a second beside what the bytes it
// must read allow at the memory's speed, measured in the same run, and the share of a token that projecting
// its hidden state onto a polytope of 500 half-spaces adds: of one inside, and of one that is outside.
//
//     token_bench [--preset NAME] [--gib BYTES/2^30] [-n TOKENS] [--threads N] [--json]
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "engine/around/safety_projection.h"
#include "engine/base/splitmix.h"
#include "engine/decode/cpu_decoder.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/weights.h"
#include "kernels/op.h"
#include "tests/bench/machine_limits.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(Clock::time_point from) { return std::chrono::duration<double>(Clock::now() - from).count(); }

// Weights of a preset's shape on huge pages, their codes random, their scales such that activations stay near
// unit size.
class SyntheticModel : public ExpertSource {
 public:
  // Holds min(experts, what fits in `bytes`) experts of each layer; expert e is number e mod that.
  SyntheticModel(const ModelConfig& config, int64_t bytes, WorkerPool& pool)
      : layout_(config.d), stride_(PadTo(layout_.payload(), 64)), tiles_(TilesPerExpert(config)) {
    weights_.config = config;
    for (int64_t l = 0; l < config.layers; ++l)
      expert_layer_.push_back(config.IsAttention(l) ? -1 : expert_layers_++);
    shared_bytes_ = PlaceShared(nullptr);
    resident_ = std::clamp<int64_t>((bytes - shared_bytes_) / (expert_layers_ * tiles_ * stride_), 1,
                                    config.num_experts());
    memory_ = std::make_unique<bench::HugeBuffer>(
        static_cast<size_t>(shared_bytes_ + resident_ * expert_layers_ * tiles_ * stride_));
    Fill(pool);
    PlaceShared(memory_->data());
    for (int64_t t = 0; t < resident_ * expert_layers_ * tiles_; ++t) {
      uint8_t* tile = memory_->data() + shared_bytes_ + t * stride_;
      SetFloats(tile + layout_.gate_scale_offset(), kTileNeurons,
                std::sqrt(1.5f / static_cast<float>(config.d)));
      SetFloats(tile + layout_.up_scale_offset(), kTileNeurons,
                std::sqrt(1.5f / static_cast<float>(config.d)) * 0.02f);
      tile_pointers_.push_back(tile);
    }
  }

  const ModelWeights& weights() const { return weights_; }
  const uint8_t* memory() const { return memory_->data(); }
  int64_t memory_bytes() const { return static_cast<int64_t>(memory_->size()); }
  int64_t resident_experts() const { return resident_; }

  absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) override {
    const int64_t first =
        (expert_layer_[static_cast<size_t>(layer.value)] * resident_ + expert.value % resident_) * tiles_;
    return ExpertTiles{{tile_pointers_.data() + first, static_cast<size_t>(tiles_)}, nullptr};
  }

  // What a token must read: every shared weight, one expert a layer, the recurrent state and `positions` of
  // key/value cache.
  int64_t BytesPerToken(int64_t positions) const {
    const ModelConfig& c = weights_.config;
    const int64_t attention = c.layers - expert_layers_, seen = std::min(positions, c.window);
    return shared_bytes_ + expert_layers_ * (tiles_ * layout_.payload() + c.d * c.r * 4) +
           attention * seen * 2 * c.kv_heads * c.head_dim() * 2;
  }

 private:
  static void SetFloats(uint8_t* at, int64_t n, float value) {
    for (int64_t i = 0; i < n; ++i) std::memcpy(at + 4 * i, &value, 4);
  }

  // Ternary bytes are below 243; as two-bit and int8 codes they are as good as any.
  void Fill(WorkerPool& pool) {
    constexpr int64_t kPiece = 1 << 20;
    const auto bytes = static_cast<int64_t>(memory_->size());
    pool.Run((bytes + kPiece - 1) / kPiece, 1, [&](int64_t begin, int64_t end) {
      for (int64_t piece = begin; piece < end; ++piece) {
        uint64_t state = static_cast<uint64_t>(piece) * 0x9e3779b97f4a7c15 + 1;
        uint8_t* at = memory_->data() + piece * kPiece;
        for (int64_t i = 0, n = std::min(kPiece, bytes - piece * kPiece); i < n; ++i) {
          state ^= state << 13, state ^= state >> 7, state ^= state << 17;
          at[i] = static_cast<uint8_t>((state & 0xff) * 243 >> 8);
        }
      }
    });
  }

  // Lays the shared weights out from `base` on and points the weights at them; with null only counts. Returns
  // the bytes.
  int64_t PlaceShared(uint8_t* base) {
    const ModelConfig& c = weights_.config;
    int64_t at = 0;
    const auto take = [&](int64_t bytes) {
      uint8_t* p = base ? base + at : nullptr;
      at += PadTo(bytes, 64);
      return p;
    };
    const auto floats = [&](int64_t n, float value) {
      uint8_t* p = take(4 * n);
      if (p) SetFloats(p, n, value);
      return reinterpret_cast<const float*>(p);
    };
    const auto linear = [&](int64_t rows, int64_t cols) {
      TwoBitLinear map;
      map.rows = rows, map.cols = cols;
      map.m = {take(PadTo(rows, 4) / 4 * PadTo(cols, 64)), PadTo(cols, 64) / 64, PadTo(rows, 4) / 4};
      map.scale = floats(PadTo(rows, 4), 1.0f / std::sqrt(5.0f * static_cast<float>(cols)));
      return map;
    };
    const auto ramp = [&](int64_t n, float step) {  // spread over the torus
      uint8_t* p = take(4 * n);
      for (int64_t i = 0; p && i < n; ++i) {
        const float value = step * static_cast<float>((i * 7919 + i / c.d * 104729) % 2001 - 1000) / 1000.0f;
        std::memcpy(p + 4 * i, &value, 4);
      }
      return reinterpret_cast<const float*>(p);
    };
    const int64_t d_pad = PadTo(c.d, 64), kv = c.kv_heads * c.head_dim();
    weights_.layers.assign(static_cast<size_t>(c.layers), {});
    for (int64_t l = 0; l < c.layers; ++l) {
      LayerWeights& w = weights_.layers[static_cast<size_t>(l)];
      w.norm1 = floats(c.d, 1), w.norm2 = floats(c.d, 1);
      const bool attention = c.IsAttention(l);
      w.wq = linear(attention ? c.d : c.r, c.d);
      w.wk = linear(attention ? kv : c.r, c.d);
      w.wv = linear(attention ? kv : c.d, c.d);
      w.wo = linear(c.d, c.d);
      if (attention) {
        w.gate = linear(c.f, c.d), w.up = linear(c.f, c.d), w.down = linear(c.d, c.f);
        continue;
      }
      w.wp = linear(c.d, c.d);
      w.bp = floats(c.d, 0);
      if (c.readout_norm) w.norm_readout = floats(c.d, 1);
      w.route = ramp(3 * c.d, 1.0f / std::sqrt(static_cast<float>(c.d)));
      uint8_t* positions = take(12 * c.num_experts());
      for (int64_t e = 0; positions && e < c.num_experts(); ++e) {
        const int64_t cell[3] = {e % c.lattice[0], e / c.lattice[0] % c.lattice[1],
                                 e / c.lattice[0] / c.lattice[1]};
        for (int axis = 0; axis < 3; ++axis) {
          const float value = (static_cast<float>(cell[axis]) + 0.5f) /
                              static_cast<float>(c.lattice[static_cast<size_t>(axis)]);
          std::memcpy(positions + 4 * (3 * e + axis), &value, 4);
        }
      }
      w.positions = reinterpret_cast<const float*>(positions);
    }
    weights_.embedding = {reinterpret_cast<const int8_t*>(take(c.vocab * d_pad)), d_pad, d_pad, c.vocab};
    weights_.embedding_scale = floats(c.vocab, 1.0f / 73);
    weights_.norm_out = floats(c.d, 1);
    return at;
  }

  TileLayout layout_;
  int64_t stride_, tiles_, expert_layers_ = 0, resident_ = 0, shared_bytes_ = 0;
  ModelWeights weights_;
  std::vector<int64_t> expert_layer_;  // index among the layers with experts, or -1
  std::unique_ptr<bench::HugeBuffer> memory_;
  std::vector<const uint8_t*> tile_pointers_;
};

// Random half-spaces at a distance of 3 from zero; of a random point of length sqrt(d), `share` of them are
// violated by an eighth of its length.
absl::StatusOr<Projector> RandomPolytope(int64_t d, int64_t half_spaces, const std::vector<float>& outside,
                                         double share) {
  Polytope p;
  p.name = "random";
  p.d = d;
  for (int64_t j = 0; j < half_spaces; ++j) {
    std::vector<float> n(static_cast<size_t>(d));
    for (int64_t i = 0; i < d; ++i) {
      n[static_cast<size_t>(i)] =
          static_cast<float>(CounterUniform(static_cast<uint64_t>(j) + 1, static_cast<uint64_t>(i)) - 0.5);
    }
    if (static_cast<double>(j) < share * static_cast<double>(half_spaces)) {
      // Turned towards the point, which has no part in a random direction to speak of.
      for (size_t i = 0; i < n.size(); ++i) n[i] += 0.05f * outside[i];
    }
    ScaleToUnit(n);
    p.normals.insert(p.normals.end(), n.begin(), n.end());
    p.bounds.push_back(3);
    p.labels.emplace_back();
  }
  return Projector::Make(std::move(p));
}

int64_t AvailableBytes() {
  FILE* file = std::fopen("/proc/meminfo", "r");
  char line[256];
  long long kib = 0;
  while (file && std::fgets(line, sizeof line, file)) {
    if (std::sscanf(line, "MemAvailable: %lld kB", &kib) == 1) break;
  }
  if (file) std::fclose(file);
  return kib * 1024;
}

int Main(int argc, char** argv) {
  CLI::App app("A full-size token with everything in memory", "token_bench");
  std::string preset = "perspective-1t";
  double gib = 0;
  int tokens = 8, threads = 2;
  bool json = false;
  app.add_option("--preset", preset);
  app.add_option("--gib", gib, "memory for the weights; 0: four fifths of what is available");
  app.add_option("-n", tokens)->check(CLI::Range(1, 100000));
  app.add_option("--threads", threads)->check(CLI::Range(1, 1024));
  app.add_flag("--json", json);
  CLI11_PARSE(app, argc, argv);
  auto config = Preset(preset);
  // Where routes come from changes no time of what is in memory; these weights have no table of members.
  if (config.ok()) config->route_from = RouteFrom::kToken, config->slow_rate = 0;
  if (!config.ok()) {
    std::fprintf(stderr, "token_bench: %s\n", std::string(config.status().message()).c_str());
    return 2;
  }
  WorkerPool pool(threads);
  const auto budget = gib > 0 ? static_cast<int64_t>(gib * 0x1p30) : AvailableBytes() / 5 * 4;
  SyntheticModel model(*config, budget, pool);
  if (const absl::Status status = CheckWeights(model.weights()); !status.ok()) {
    std::fprintf(stderr, "token_bench: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  CpuDecoder decoder(model.weights(), pool);
  SessionState state(*config);
  std::vector<double> shares, rates, roofs, inside_shares, outside_shares;
  constexpr int64_t kHalfSpaces = 500;
  std::vector<float> outside(static_cast<size_t>(config->d));
  for (size_t i = 0; i < outside.size(); ++i) outside[i] = i % 3 == 0 ? 1.7f : -0.3f;
  const absl::StatusOr<Projector> projector = RandomPolytope(config->d, kHalfSpaces, outside, 0.05);
  if (!projector.ok()) {
    std::fprintf(stderr, "token_bench: %s\n", std::string(projector.status().message()).c_str());
    return 1;
  }
  int32_t token = 1;
  for (int i = -1; i < tokens; ++i) {  // the first token touches every page and is not counted
    const double bandwidth = bench::ReadBandwidth(
        model.memory(), std::min<int64_t>(model.memory_bytes(), int64_t{1} << 30), threads);
    const BatchRow row{&state, TokenId(token), true};
    const auto start = Clock::now();
    const auto logits = RunBatch(decoder, *config, model, pool, {&row, 1});
    const double seconds = Seconds(start);
    if (!logits.ok()) {
      std::fprintf(stderr, "token_bench: %s\n", std::string(logits.status().message()).c_str());
      return 1;
    }
    token = static_cast<int32_t>(std::max_element(logits->begin(), logits->end()) - logits->begin());
    // The token has pushed the half-spaces out of every cache.
    std::vector<float> within(outside.size(), 0.01f), beyond = outside;
    const auto first = Clock::now();
    const auto stayed = projector->Project(within);
    const double inside_seconds = Seconds(first);
    const auto second = Clock::now();
    const auto moved = projector->Project(beyond);
    const double outside_seconds = Seconds(second);
    if (!stayed.ok() || !moved.ok() || !stayed->inside || moved->inside) {
      std::fprintf(stderr, "token_bench: the points are not where they should be\n");
      return 1;
    }
    if (i < 0) continue;
    inside_shares.push_back(inside_seconds / seconds);
    outside_shares.push_back(outside_seconds / seconds);
    const double roof = bandwidth / static_cast<double>(model.BytesPerToken(state.position()));
    rates.push_back(1 / seconds);
    roofs.push_back(roof);
    shares.push_back(1 / seconds / roof);
  }
  const auto median = [](std::vector<double> v) {
    std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
    return v[v.size() / 2];
  };
  const double rate = median(rates), roof = median(roofs), share = median(shares);
  if (json) {
    const nlohmann::json out = {{"token_tok_per_s", rate},
                                {"token_roofline_tok_per_s", roof},
                                {"token_roofline_share", share},
                                {"token_bytes", model.BytesPerToken(state.position())},
                                {"spp_share", median(outside_shares)},
                                {"spp_inside_share", median(inside_shares)},
                                {"token_resident_experts", model.resident_experts()}};
    std::printf("%s\n", out.dump().c_str());
  } else {
    std::printf(
        "%.3f tok/s, roofline %.3f tok/s, share %.3f (%lld bytes a token, %lld of %lld experts a layer); a "
        "projection onto %lld half-spaces takes %.3f %% of a token, %.3f %% of a point inside\n",
        rate, roof, share, static_cast<long long>(model.BytesPerToken(state.position())),
        static_cast<long long>(model.resident_experts()), static_cast<long long>(config->num_experts()),
        static_cast<long long>(kHalfSpaces), 100 * median(outside_shares), 100 * median(inside_shares));
  }
  return 0;
}

}  // namespace
}  // namespace omni

int main(int argc, char** argv) { return omni::Main(argc, argv); }
