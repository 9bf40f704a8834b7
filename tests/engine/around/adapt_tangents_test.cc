// Derivatives against central differences of the token step in double, with every rounding's error held at
// what it was: that is what straight through means. What it was is taken from the engine's own run. Rounding
// again in double would not do: a value close enough to a code's edge goes to one side in float and to the
// other in double, and the two are derivatives at different points.
#include "engine/around/adapt_tangents.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "engine/around/adapter.h"
#include "engine/decode/cpu_decoder.h"
#include "tests/testing/random_model.h"

namespace omni {
namespace {

using testing::PlainExpert;
using testing::PlainLayer;
using testing::PlainLinear;
using testing::RandomModel;
using Vector = std::vector<double>;

double Silu(double x) { return x / (1 + std::exp(-x)); }

// What an adapter changes of a layer, in double.
struct Change {
  double mixer_gain = 0, ffn_gain = 0;
  Vector left, core, right;  // empty: none

  void Add(const LayerChange& by, double step) {
    mixer_gain += step * by.mixer_gain;
    ffn_gain += step * by.ffn_gain;
    for (size_t i = 0; by.left != nullptr && i < left.size(); ++i) {
      left[i] += step * by.left[i];
      right[i] += step * by.right[i];
    }
    for (size_t i = 0; by.core != nullptr && i < core.size(); ++i) core[i] += step * by.core[i];
  }
};

std::vector<Change> ChangesOf(const Adapter& adapter, int64_t d) {
  const RowAdapter view = adapter.View();
  std::vector<Change> changes;
  for (const LayerChange& l : view.layers) {
    Change change{l.mixer_gain, l.ffn_gain, {}, {}, {}};
    if (l.left != nullptr) {
      change.left.assign(l.left, l.left + d * kAdapterRank);
      change.right.assign(l.right, l.right + d * kAdapterRank);
      change.core.assign(kAdapterRank * kAdapterRank, 0);
      for (int64_t i = 0; i < kAdapterRank; ++i) {
        for (int64_t j = 0; j < kAdapterRank; ++j) {
          const auto at = static_cast<size_t>(i * kAdapterRank + j);
          change.core[at] = l.core == nullptr ? (i == j ? 1 : 0) : l.core[at];
        }
      }
    }
    changes.push_back(change);
  }
  return changes;
}

// What the engine's rounding made of a row, and the most that it may have moved an element by.
struct Rounding {
  Vector values, most;
};

// All roundings of the engine's run, in its order: a token at a time, on one thread.
struct Roundings {
  std::vector<Rounding> codes, halves;
};
Roundings* roundings = nullptr;

void RecordQuantize(const float* x, int64_t n, int64_t n_padded, int8_t* q, float* scale) {
  kernels::ActiveOps().quantize(x, n, n_padded, q, scale);
  Rounding& rounding = roundings->codes.emplace_back();
  for (int64_t i = 0; i < n; ++i) rounding.values.push_back(static_cast<double>(q[i]) * *scale);
  rounding.most.assign(static_cast<size_t>(n), 0.505 * *scale);
}
void RecordToFp16(const float* x, int64_t n, uint16_t* y) {
  kernels::ActiveOps().to_fp16(x, n, y);
  Rounding& rounding = roundings->halves.emplace_back();
  for (int64_t i = 0; i < n; ++i) {
    rounding.values.push_back(kernels::FromFp16(y[i]));
    rounding.most.push_back(std::ldexp(1.01, -11) * std::fabs(x[i]) + std::ldexp(1.0, -24));
  }
}

Roundings RoundingsOf(RandomModel& model, std::span<const TokenId> tokens, const RowAdapter& at) {
  Roundings all;
  roundings = &all;
  kernels::Ops ops = kernels::ActiveOps();
  ops.quantize = RecordQuantize;
  ops.to_fp16 = RecordToFp16;
  WorkerPool pool(1);
  TangentPass pass(model.weights(), model, pool, ops);
  SessionState state(model.config());
  TangentState tangents(model.config(), 0);
  for (const TokenId& token : tokens)
    EXPECT_TRUE(pass.Run(state, tangents, std::span(&token, 1), at, {}).ok());
  roundings = nullptr;
  return all;
}

// The token step, smooth: where the model rounds, the error of the first run is added.
class SmoothModel {
 public:
  SmoothModel(const RandomModel& model, std::span<const std::vector<ExpertId>> routes, Roundings roundings)
      : model_(model), c_(model.config()), routes_(routes), roundings_(std::move(roundings)) {}

  // Hidden states after each token. The first call notes what the engine's rounding adds to its values, the
  // others add that.
  std::vector<Vector> Run(std::span<const TokenId> tokens, const std::vector<Change>& changes) {
    recording_ = errors_.empty();
    next_ = next_code_ = next_half_ = 0;
    changes_ = &changes;
    const auto layers = static_cast<size_t>(c_.layers);
    state_.assign(layers, Vector(static_cast<size_t>(c_.d * c_.r)));
    keys_.assign(layers, {});
    values_.assign(layers, {});
    std::vector<Vector> hidden;
    for (position_ = 0; position_ < std::ssize(tokens); ++position_)
      hidden.push_back(Step(tokens[static_cast<size_t>(position_)]));
    EXPECT_EQ(next_code_, roundings_.codes.size());
    EXPECT_EQ(next_half_, roundings_.halves.size());
    return hidden;
  }

 private:
  Vector Rounded(const Vector& x, const std::vector<Rounding>& by_engine, size_t& next) {
    if (recording_) {
      const Rounding& rounding = by_engine.at(next);
      Vector error;
      for (size_t i = 0; i < x.size(); ++i) {
        error.push_back(rounding.values.at(i) - x[i]);
        EXPECT_LE(std::fabs(error[i]), rounding.most[i] + 1e-5 * std::fabs(x[i])) << "no rounding";
      }
      errors_.push_back(std::move(error));
    }
    ++next;
    Vector y = x;
    for (size_t i = 0; i < x.size(); ++i) y[i] += errors_[next_][i];
    ++next_;
    return y;
  }
  Vector Quantized(const Vector& x) { return Rounded(x, roundings_.codes, next_code_); }
  Vector Halved(const Vector& x) { return Rounded(x, roundings_.halves, next_half_); }
  static Vector Multiply(const PlainLinear& linear, const Vector& x) {
    Vector y(static_cast<size_t>(linear.rows));
    for (size_t row = 0; row < y.size(); ++row) {
      for (size_t col = 0; col < x.size(); ++col)
        y[row] += linear.levels[row * x.size() + col] * x[col] * linear.scale[row];
    }
    return y;
  }
  template <typename Gain>
  static Vector Norm(const Vector& x, const Gain& gain) {
    double sum = 0;
    for (double v : x) sum += v * v;
    const double inverse = 1 / std::sqrt(sum / static_cast<double>(x.size()) + 1e-6);
    Vector y;
    for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] * inverse * gain[i]);
    return y;
  }
  static void Add(Vector& x, const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }
  static void Scale(Vector& x, double factor) {
    for (double& v : x) v *= factor;
  }

  Vector Pdr(size_t layer, const Vector& x) {
    const PlainLayer& w = model_.plain(static_cast<int64_t>(layer));
    const Change& change = (*changes_)[layer];
    const Vector h = Norm(x, w.norm1);
    Vector in = Quantized(h);
    Scale(in, 1 + change.mixer_gain);
    Vector p = Multiply(w.wp, in);
    const Vector q = Multiply(w.wq, in), v = Multiply(w.wv, in);
    Vector k = Multiply(w.wk, in);
    if (c_.key_scale) Scale(k, 1 / std::sqrt(static_cast<double>(c_.r)));
    if (!change.left.empty()) {
      constexpr auto n = static_cast<size_t>(kAdapterRank);
      Vector low(n), mid(n);
      for (size_t j = 0; j < n; ++j) {
        for (size_t i = 0; i < h.size(); ++i) low[j] += change.right[j * h.size() + i] * h[i];
      }
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n; ++j) mid[i] += change.core[i * n + j] * low[j];
      }
      for (size_t i = 0; i < h.size(); ++i) {
        for (size_t j = 0; j < n; ++j) p[i] += change.left[i * n + j] * mid[j];
      }
    }
    Vector& S = state_[layer];
    Vector readout;
    double norm = 0;
    for (size_t i = 0; i < v.size(); ++i) {
      const double log_gamma =
          std::max(-std::log1p(std::exp(-(p[i] + w.bp[i]))), static_cast<double>(c_.decay_floor));
      double sum = 0;
      for (size_t j = 0; j < k.size(); ++j) {
        double& s = S[i * k.size() + j];
        s = std::exp(log_gamma) * s + v[i] * k[j];
        sum += s * q[j];
        norm += s * s;
      }
      readout.push_back(sum);
    }
    const double limit = std::sqrt(static_cast<double>(c_.d * c_.r));
    if ((position_ + 1) % c_.state_norm_period == 0 && std::sqrt(norm) > limit)
      Scale(S, limit / std::sqrt(norm));
    return Multiply(w.wo, Quantized(c_.readout_norm ? Norm(readout, w.norm_readout) : readout));
  }

  void Rotate(double* head) const {
    const int64_t h = c_.head_dim();
    for (int64_t i = 0; i < h / 2; ++i) {
      const double angle = static_cast<double>(position_) *
                           std::pow(c_.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(h));
      const double a = head[i], b = head[i + h / 2];
      head[i] = a * std::cos(angle) - b * std::sin(angle);
      head[i + h / 2] = a * std::sin(angle) + b * std::cos(angle);
    }
  }

  Vector Attention(size_t layer, const Vector& x) {
    const PlainLayer& w = model_.plain(static_cast<int64_t>(layer));
    const int64_t h = c_.head_dim();
    Vector in = Quantized(Norm(x, w.norm1));
    Scale(in, 1 + (*changes_)[layer].mixer_gain);
    Vector q = Multiply(w.wq, in), k = Multiply(w.wk, in);
    const Vector v = Multiply(w.wv, in);
    for (int64_t head = 0; head < c_.heads; ++head) Rotate(q.data() + head * h);
    for (int64_t head = 0; head < c_.kv_heads; ++head) Rotate(k.data() + head * h);
    // As the engine does, a head's key and then its value.
    Vector& key = keys_[layer].emplace_back();
    Vector& value = values_[layer].emplace_back();
    for (auto at = k.begin(); at != k.end(); at += h) {
      const Vector head_key = Halved(Vector(at, at + h));
      const auto v_at = v.begin() + (at - k.begin());
      const Vector head_value = Halved(Vector(v_at, v_at + h));
      key.insert(key.end(), head_key.begin(), head_key.end());
      value.insert(value.end(), head_value.begin(), head_value.end());
    }
    const auto& keys = keys_[layer];
    const auto first = static_cast<size_t>(std::max<int64_t>(0, position_ + 1 - c_.window));
    Vector out(static_cast<size_t>(c_.d));
    for (int64_t head = 0; head < c_.heads; ++head) {
      const auto kv = static_cast<size_t>(head / (c_.heads / c_.kv_heads) * h);
      Vector weight;
      double sum = 0;
      for (size_t at = first; at < keys.size(); ++at) {
        double score = 0;
        for (int64_t i = 0; i < h; ++i)
          score += q[static_cast<size_t>(head * h + i)] * keys[at][kv + static_cast<size_t>(i)];
        weight.push_back(std::exp(score / std::sqrt(static_cast<double>(h))));
        sum += weight.back();
      }
      for (size_t at = first; at < keys.size(); ++at) {
        for (int64_t i = 0; i < h; ++i) {
          out[static_cast<size_t>(head * h + i)] +=
              weight[at - first] / sum * values_[layer][at][kv + static_cast<size_t>(i)];
        }
      }
    }
    return Multiply(w.wo, Quantized(out));
  }

  Vector SharedFfn(size_t layer, const Vector& in) {
    const PlainLayer& w = model_.plain(static_cast<int64_t>(layer));
    const Vector gate = Multiply(w.gate, in), up = Multiply(w.up, in);
    Vector a;
    for (size_t i = 0; i < gate.size(); ++i) a.push_back(up[i] * Silu(gate[i]));
    return Multiply(w.down, Quantized(a));
  }

  Vector ExpertFfn(size_t layer, const Vector& in) {
    const ExpertId expert = routes_[layer][static_cast<size_t>(position_)];
    const PlainExpert w = model_.MakeExpert(LayerId(static_cast<int32_t>(layer)), expert);
    const size_t d = in.size();
    Vector a;
    for (size_t n = 0; n < w.gate_scale.size(); ++n) {
      double gate = 0, up = 0;
      for (size_t i = 0; i < d; ++i) {
        gate += w.gate[n * d + i] * in[i];
        up += w.up[n * d + i] * in[i];
      }
      a.push_back(up * w.up_scale[n] * Silu(gate * w.gate_scale[n]));
    }
    const Vector rounded = Quantized(a);
    Vector out(d);
    for (size_t n = 0; n < a.size(); ++n) {
      for (size_t i = 0; i < d; ++i) out[i] += w.down[n * d + i] * rounded[n];
    }
    return out;
  }

  Vector Step(TokenId token) {
    Vector x;
    for (int64_t i = 0; i < c_.d; ++i) {
      x.push_back(static_cast<double>(model_.embedding(token.value, i)) *
                  model_.weights().embedding_scale[token.index()]);
    }
    for (size_t layer = 0; layer < state_.size(); ++layer) {
      const bool attention = c_.IsAttention(static_cast<int64_t>(layer));
      Add(x, attention ? Attention(layer, x) : Pdr(layer, x));
      Vector in = Quantized(Norm(x, model_.plain(static_cast<int64_t>(layer)).norm2));
      Scale(in, 1 + (*changes_)[layer].ffn_gain);
      Add(x, attention ? SharedFfn(layer, in) : ExpertFfn(layer, in));
    }
    return Norm(x, model_.weights().norm_out);
  }

  const RandomModel& model_;
  const ModelConfig& c_;
  const std::span<const std::vector<ExpertId>> routes_;  // by layer and token
  const Roundings roundings_;
  const std::vector<Change>* changes_ = nullptr;
  bool recording_ = false;
  size_t next_ = 0, next_code_ = 0, next_half_ = 0;
  int64_t position_ = 0;
  std::vector<Vector> errors_;
  std::vector<Vector> state_;
  std::vector<std::vector<Vector>> keys_, values_;
};

// Remembers where rows went.
class Recorder : public RoutePolicy {
 public:
  explicit Recorder(int64_t layers) : routes(static_cast<size_t>(layers)) {}
  ExpertId Choose(const RouteChoice& choice) override {
    routes[choice.layer.index()].push_back(choice.nearest);
    return choice.nearest;
  }
  std::vector<std::vector<ExpertId>> routes;
};

AdapterParts LayerParts(AdaptLayers layers) { return {false, false, 0, layers, false}; }

void Fill(Adapter& adapter, float size, uint64_t seed) {
  testing::Random random(seed);
  for (const AdapterBlock block : kAdapterBlocks) {
    for (float& value : adapter.values(block)) value = random.Uniform(-size, size);
  }
}

struct Case {
  const char* name;
  ModelConfig config;
  AdaptLayers layers;
};

class Tangents : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kTokens = 13, kCut = 6;  // past a window of 7 and a normalisation at 5 and 10

  // Of weights, adapters, tokens and directions.
  static constexpr uint64_t kSeeds = 20;
  // Small, for no value is then likely to pass the decay's floor; in double enough is left of a difference.
  static constexpr double kStep = 1e-6;

  void Compare(uint64_t seed, double& worst);

  // Those that move one block of one layer each.
  std::vector<Adapter> Directions(uint64_t seed) const {
    const ModelConfig& c = GetParam().config;
    std::vector<Adapter> directions;
    const auto one = [&](AdapterBlock block, int64_t begin, int64_t count) {
      Adapter& direction = directions.emplace_back(c, LayerParts(GetParam().layers), "");
      for (const AdapterBlock all : kAdapterBlocks) direction.Clear(all);
      testing::Random random(1000 * seed + directions.size());
      for (float& value :
           direction.values(block).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)))
        value = random.Uniform(-1, 1);
    };
    int64_t pdr = 0;
    for (int64_t l = 0; l < c.layers; ++l) {
      one(AdapterBlock::kLayerGains, 2 * l, 1);
      one(AdapterBlock::kLayerGains, 2 * l + 1, 1);
      if (c.IsAttention(l)) continue;
      if (GetParam().layers == AdaptLayers::kCores) {
        one(AdapterBlock::kCores, 16 * pdr, 16);
      } else {
        one(AdapterBlock::kLeft, 4 * c.d * pdr, 4 * c.d);
        one(AdapterBlock::kRight, 4 * c.d * pdr, 4 * c.d);
      }
      ++pdr;
    }
    return directions;
  }
};

// The error of every direction's derivatives, as a share of their length.
void Tangents::Compare(uint64_t seed, double& worst) {
  const ModelConfig& c = GetParam().config;
  RandomModel model(c, seed);
  WorkerPool pool(2);
  Adapter at(c, LayerParts(GetParam().layers), "");
  Fill(at, 0.1f, seed + 100);
  const std::vector<TokenId> tokens = testing::RandomTokens(kTokens, c.vocab, seed + 200);
  const std::vector<Adapter> directions = Directions(seed);
  std::vector<std::vector<LayerChange>> views;
  for (const Adapter& direction : directions) views.push_back(direction.DirectionView());

  Recorder recorder(c.layers);
  SessionState state(c);
  TangentState tangents(c, std::ssize(views));
  TangentPass pass(model.weights(), model, pool);
  const RowAdapter view = at.View();
  std::vector<std::vector<Vector>> got(views.size());  // by direction and token
  std::vector<Vector> hidden;
  for (const auto& [begin, count] : {std::pair<int64_t, int64_t>(0, kCut), {kCut, kTokens - kCut}}) {
    const auto part = std::span(tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    ASSERT_TRUE(pass.Run(state, tangents, part, view, views, &recorder).ok());
    for (int64_t i = 0; i < count; ++i) {
      hidden.emplace_back(pass.hidden(i).begin(), pass.hidden(i).end());
      for (size_t k = 0; k < views.size(); ++k) {
        const std::span<const float> tangent = pass.tangent(static_cast<int64_t>(k), i);
        got[k].emplace_back(tangent.begin(), tangent.end());
      }
    }
  }

  SmoothModel smooth(model, recorder.routes, RoundingsOf(model, tokens, view));
  const std::vector<Vector> base = smooth.Run(tokens, ChangesOf(at, c.d));
  for (size_t i = 0; i < base.size(); ++i) {
    for (size_t j = 0; j < base[i].size(); ++j) ASSERT_NEAR(hidden[i][j], base[i][j], 1e-4);
  }
  for (size_t k = 0; k < directions.size(); ++k) {
    std::vector<Vector> side[2];
    for (int s = 0; s < 2; ++s) {
      std::vector<Change> moved = ChangesOf(at, c.d);
      for (size_t l = 0; l < moved.size(); ++l) moved[l].Add(views[k][l], s == 0 ? kStep : -kStep);
      side[s] = smooth.Run(tokens, moved);
    }
    double error = 0, size = 0;
    for (size_t i = 0; i < base.size(); ++i) {
      for (size_t j = 0; j < base[i].size(); ++j) {
        const double want = (side[0][i][j] - side[1][i][j]) / (2 * kStep);
        error += std::pow(got[k][i][j] - want, 2);
        size += want * want;
      }
    }
    EXPECT_GT(size, 0) << "direction " << k << " moves nothing";
    EXPECT_LT(std::sqrt(error / size), 1e-3) << "direction " << k;
    worst = std::max(worst, std::sqrt(error / size));
  }
}

TEST_P(Tangents, MatchCentralDifferences) {
  double worst = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(::testing::Message() << "seed " << seed);
    Compare(seed, worst);
  }
  RecordProperty("worst", std::to_string(worst));
}

TEST_P(Tangents, PrimalIsTheDecodersByTheBit) {
  const ModelConfig& c = GetParam().config;
  RandomModel model(c, 6);
  WorkerPool pool(2);
  Adapter at(c, LayerParts(GetParam().layers), "");
  Fill(at, 0.2f, 4);
  const RowAdapter view = at.View();
  const std::vector<TokenId> tokens = testing::RandomTokens(kTokens, c.vocab, 8);
  std::vector<std::vector<LayerChange>> views = {at.DirectionView()};
  SessionState state(c), plain(c);
  TangentState tangents(c, 1);
  TangentPass pass(model.weights(), model, pool);
  ASSERT_TRUE(pass.Run(state, tangents, tokens, view, views).ok());
  CpuDecoder decoder(model.weights(), pool);
  std::vector<BatchRow> rows;
  for (TokenId token : tokens) rows.push_back({&plain, token, true, nullptr, false, false, &view});
  ASSERT_TRUE(RunBatch(decoder, c, model, pool, rows).ok());
  for (int64_t i = 0; i < kTokens; ++i)
    EXPECT_TRUE(std::ranges::equal(pass.hidden(i), decoder.hidden(i))) << "token " << i;
  EXPECT_EQ(state.Save(), plain.Save());
}

INSTANTIATE_TEST_SUITE_P(Models, Tangents,
                         ::testing::Values(Case{"Tiny", testing::TinyConfig(), AdaptLayers::kCores},
                                           Case{"Odd", testing::OddConfig(), AdaptLayers::kCores},
                                           Case{"OddFactors", testing::OddConfig(), AdaptLayers::kLora},
                                           Case{"Flagless", testing::FlaglessConfig(), AdaptLayers::kCores},
                                           Case{"FlaglessFactors", testing::FlaglessConfig(),
                                                AdaptLayers::kLora},
                                           Case{"Ahead", testing::AheadConfig(), AdaptLayers::kCores},
                                           Case{"Address", testing::AddressConfig(), AdaptLayers::kCores}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace omni
