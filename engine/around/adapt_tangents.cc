#include "engine/around/adapt_tangents.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/around/adapt_columns.h"
#include "engine/decode/decay_change.h"
#include "engine/decode/rope.h"
#include "engine/decode/router.h"

namespace omni {
namespace {

constexpr float kNormEpsilon = 1e-6f;

// dy of y = rms_norm(x) g: g inv (dx - x (x . dx) inv^2 / n).
void NormTangent(const float* x, const float* g, const float* dx, int64_t n, float* dy) {
  double square = 0, along = 0;
  for (int64_t i = 0; i < n; ++i) {
    square += static_cast<double>(x[i]) * x[i];
    along += static_cast<double>(x[i]) * dx[i];
  }
  const double mean = square / static_cast<double>(n) + kNormEpsilon, inv = 1 / std::sqrt(mean);
  const double factor = along / (static_cast<double>(n) * mean);
  for (int64_t i = 0; i < n; ++i) dy[i] = static_cast<float>(g[i] * inv * (dx[i] - x[i] * factor));
}

// da of a = up silu(gate).
float SwigluTangent(float gate, float up, float gate_tangent, float up_tangent) {
  const float sigmoid = kernels::Sigmoid(gate);
  return up_tangent * gate * sigmoid + up * gate_tangent * sigmoid * (1 + gate * (1 - sigmoid));
}

}  // namespace

struct TangentPass::Impl {
  Impl(const ModelWeights& w, ExpertSource& s, WorkerPool& p, const kernels::Ops& o)
      : weights(w),
        config(w.config),
        source(s),
        pool(p),
        ops(o),
        angles(w.config.rope_theta, w.config.head_dim()),
        columns(p, o),
        ffn_columns(p, o) {}

  using Change = float LayerChange::*;

  // fn(index) for 0 .. n - 1 on any thread.
  template <typename F>
  void For(int64_t n, F&& fn) {
    pool.Run(n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) fn(i);
    });
  }
  float* X(int64_t row) { return x.data() + row * config.d; }
  float* Dx(int64_t tangent) { return dx.data() + tangent * config.d; }
  float* H(int64_t row) { return h.data() + row * config.d; }
  float* Dh(int64_t tangent) { return dh.data() + tangent * config.d; }
  // Tangent number of a direction's row.
  int64_t At(int64_t k, int64_t row) const { return k * rows + row; }
  const LayerChange* Direction(int64_t k, LayerId layer) const {
    return directions[static_cast<size_t>(k)].empty() ? nullptr
                                                      : &directions[static_cast<size_t>(k)][layer.index()];
  }

  void Embed(std::span<const TokenId> tokens);
  void NormAndSplit(LayerId layer, const float* gain, Change change);
  void AddOutput(const TwoBitLinear& linear, const std::vector<float>& in, const std::vector<float>& din,
                 int64_t width);
  void Project(const TwoBitLinear& linear, std::vector<float>& out, std::vector<float>& dout);
  void Pdr(LayerId layer, SessionState& state, TangentState& tangents);
  void ChangeDecay(LayerId layer);
  void NormalizeState(float* S, TangentState& tangents, LayerId layer);
  void Attention(LayerId layer, SessionState& state, TangentState& tangents);
  void AttendHead(LayerId layer, SessionState& state, TangentState& tangents, int64_t kv_head);
  void SharedFfn(LayerId layer);
  void RouteRows(LayerId layer, SessionState& state, std::span<const TokenId> tokens, RoutePolicy* policy);
  absl::Status Experts(LayerId layer);
  void RunExpert(const ExpertTiles& expert, const std::vector<int64_t>& members);
  void Finish();

  const ModelWeights& weights;
  const ModelConfig& config;
  ExpertSource& source;
  WorkerPool& pool;
  const kernels::Ops& ops;
  const RopeAngles angles;
  TangentColumns columns, ffn_columns;
  const RowAdapter* at = nullptr;
  std::span<const std::vector<LayerChange>> directions;
  int64_t rows = 0, count = 0, position = 0;  // count: of directions
  std::vector<float> x, dx, h, dh, y, dy;     // [rows, d] and [directions, rows, d]
  std::vector<float> p, dp, v, dv, k, dk, q, dq, out, dout, gamma, dgamma, cos, sin;
  std::vector<ExpertId> routes;
};

void TangentPass::Impl::Embed(std::span<const TokenId> tokens) {
  for (int64_t row = 0; row < rows; ++row) {
    const size_t token = tokens[static_cast<size_t>(row)].index();
    const int8_t* embedding = weights.embedding.base + static_cast<int64_t>(token) * weights.embedding.stride;
    for (int64_t i = 0; i < config.d; ++i)
      X(row)[i] = static_cast<float>(embedding[i]) * weights.embedding_scale[token];
  }
  std::ranges::fill(dx, 0.0f);
}

// h and dh of the norm; then the columns of what the layer's matrices read.
void TangentPass::Impl::NormAndSplit(LayerId layer, const float* gain, Change change) {
  const int64_t d = config.d;
  const LayerChange* now = at->layers.empty() ? nullptr : &at->layers[layer.index()];
  const float factor = 1.0f + (now == nullptr ? 0.0f : now->*change);
  columns.Resize(rows, count * rows, d);
  For(rows, [&](int64_t row) {
    ops.rms_norm(X(row), gain, d, H(row));
    columns.SetPrimal(row, H(row));
    std::vector<float> in(static_cast<size_t>(d));
    for (int64_t k = 0; k < count; ++k) {
      float* tangent = Dh(At(k, row));
      NormTangent(X(row), gain, Dx(At(k, row)), d, tangent);
      const LayerChange* direction = Direction(k, layer);
      const float more = direction == nullptr ? 0.0f : (direction->*change) * columns.scale()[row];
      for (int64_t i = 0; i < d; ++i) {
        in[static_cast<size_t>(i)] = factor * tangent[i] + more * static_cast<float>(columns.q(row)[i]);
      }
      columns.SetTangent(At(k, row), in.data());
    }
    if (now != nullptr) columns.scale()[row] *= factor;
  });
}

void TangentPass::Impl::Project(const TwoBitLinear& linear, std::vector<float>& result,
                                std::vector<float>& tangents) {
  result.resize(static_cast<size_t>(rows * linear.rows));
  tangents.resize(static_cast<size_t>(count) * result.size());
  columns.Multiply(linear);
  For(rows, [&](int64_t row) {
    columns.Primal(linear, row, result.data() + row * linear.rows);
    for (int64_t k = 0; k < count; ++k)
      columns.Tangent(linear, At(k, row), tangents.data() + At(k, row) * linear.rows);
  });
}

// x += linear(in), dx += linear(din); of rows `width` wide.
void TangentPass::Impl::AddOutput(const TwoBitLinear& linear, const std::vector<float>& in,
                                  const std::vector<float>& din, int64_t width) {
  ffn_columns.Resize(rows, count * rows, width);
  For(rows, [&](int64_t row) {
    ffn_columns.SetPrimal(row, in.data() + row * width);
    for (int64_t k = 0; k < count; ++k) ffn_columns.SetTangent(At(k, row), din.data() + At(k, row) * width);
  });
  ffn_columns.Multiply(linear);
  For(rows, [&](int64_t row) {
    std::vector<float> result(static_cast<size_t>(config.d));
    ffn_columns.Primal(linear, row, result.data());
    ops.add(X(row), result.data(), config.d);
    for (int64_t k = 0; k < count; ++k) {
      ffn_columns.Tangent(linear, At(k, row), result.data());
      ops.add(Dx(At(k, row)), result.data(), config.d);
    }
  });
}

// p and dp of the adapter's change of W_p.
void TangentPass::Impl::ChangeDecay(LayerId layer) {
  const int64_t d = config.d;
  if (at->layers.empty() || at->layers[layer.index()].left == nullptr) return;
  const LayerChange& now = at->layers[layer.index()];
  For(rows, [&](int64_t row) {
    float low[kAdapterRank], mid[kAdapterRank];
    for (int64_t j = 0; j < kAdapterRank; ++j) low[j] = ops.dot(now.right + j * d, H(row), d);
    DecayInner(now, ops, H(row), d, mid);
    AddDecayChange(now.left, mid, d, p.data() + row * d);
    for (int64_t k = 0; k < count; ++k) {
      const LayerChange* direction = Direction(k, layer);
      float dmid[kAdapterRank];
      DecayInner(now, ops, Dh(At(k, row)), d, dmid);
      if (direction != nullptr && direction->right != nullptr) {
        LayerChange moved = now;
        moved.right = direction->right;
        float more[kAdapterRank];
        DecayInner(moved, ops, H(row), d, more);
        for (int64_t j = 0; j < kAdapterRank; ++j) dmid[j] += more[j];
      }
      if (direction != nullptr && direction->core != nullptr) {
        for (int64_t i = 0; i < kAdapterRank; ++i) {
          for (int64_t j = 0; j < kAdapterRank; ++j)
            dmid[i] += direction->core[i * kAdapterRank + j] * low[j];
        }
      }
      float* tangent = dp.data() + At(k, row) * d;
      AddDecayChange(now.left, dmid, d, tangent);
      if (direction != nullptr && direction->left != nullptr)
        AddDecayChange(direction->left, mid, d, tangent);
    }
  });
}

void TangentPass::Impl::Pdr(LayerId layer, SessionState& state, TangentState& tangents) {
  const LayerWeights& w = weights.layers[layer.index()];
  const int64_t d = config.d, r = config.r;
  const auto decay_floor = static_cast<float>(std::exp(static_cast<double>(config.decay_floor)));
  NormAndSplit(layer, w.norm1, &LayerChange::mixer_gain);
  Project(w.wp, p, dp);
  Project(w.wv, v, dv);
  Project(w.wk, k, dk);
  Project(w.wq, q, dq);
  if (config.key_scale) {
    const float root = std::sqrt(static_cast<float>(r));
    for (float& value : k) value /= root;
    for (float& value : dk) value /= root;
  }
  ChangeDecay(layer);
  gamma.resize(static_cast<size_t>(rows * d));
  dgamma.resize(static_cast<size_t>(count) * gamma.size());
  out.resize(gamma.size());
  dout.resize(dgamma.size());
  For(rows, [&](int64_t row) {
    ops.decay(p.data() + row * d, w.bp, decay_floor, d, gamma.data() + row * d);
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t i = 0; i < d; ++i) {
        const float g = gamma[static_cast<size_t>(row * d + i)];
        const auto of = static_cast<size_t>(At(t, row) * d + i);
        dgamma[of] = g > decay_floor ? g * (1 - g) * dp[of] : 0.0f;
      }
    }
  });
  const int64_t period = config.state_norm_period;
  for (int64_t first = 0; first < rows;) {
    const int64_t to_norm = period - (position + first) % period, end = std::min(rows, first + to_norm);
    For(d, [&](int64_t i) {
      float* S = state.pdr(layer) + i * r;
      for (int64_t row = first; row < end; ++row) {
        const float g = gamma[static_cast<size_t>(row * d + i)], value = v[static_cast<size_t>(row * d + i)];
        const float *key = k.data() + row * r, *query = q.data() + row * r;
        for (int64_t t = 0; t < count; ++t) {
          float* dS = tangents.pdr(layer, t) + i * r;
          const float* dkey = dk.data() + At(t, row) * r;
          const float dg = dgamma[static_cast<size_t>(At(t, row) * d + i)];
          const float dvalue = dv[static_cast<size_t>(At(t, row) * d + i)];
          for (int64_t j = 0; j < r; ++j) dS[j] = dg * S[j] + g * dS[j] + dvalue * key[j] + value * dkey[j];
        }
        ops.pdr_step(S, &g, &value, key, query, 1, r, out.data() + row * d + i);
        for (int64_t t = 0; t < count; ++t) {
          dout[static_cast<size_t>(At(t, row) * d + i)] =
              ops.dot(tangents.pdr(layer, t) + i * r, query, r) + ops.dot(S, dq.data() + At(t, row) * r, r);
        }
      }
    });
    if (end == first + to_norm) NormalizeState(state.pdr(layer), tangents, layer);
    first = end;
  }
  if (w.norm_readout != nullptr) {
    For(rows, [&](int64_t row) {
      float* of = out.data() + row * d;
      for (int64_t t = 0; t < count; ++t) {
        float* tangent = dout.data() + At(t, row) * d;
        NormTangent(of, w.norm_readout, tangent, d, tangent);
      }
      ops.rms_norm(of, w.norm_readout, d, of);
    });
  }
  AddOutput(w.wo, out, dout, d);
}

// As PdrMixer's; S f with f = limit / |S| has the derivative f (dS - S (S . dS) / |S|^2).
void TangentPass::Impl::NormalizeState(float* S, TangentState& tangents, LayerId layer) {
  const int64_t d = config.d, r = config.r;
  std::vector<float> row_norms(static_cast<size_t>(d)), ones(static_cast<size_t>(d), 1.0f);
  for (int64_t i = 0; i < d; ++i) row_norms[static_cast<size_t>(i)] = ops.dot(S + i * r, S + i * r, r);
  const float square = ops.dot(row_norms.data(), ones.data(), d), norm = std::sqrt(square);
  const float limit = std::sqrt(static_cast<float>(d * r));
  if (!(norm > limit)) return;
  const float factor = limit / norm;
  for (int64_t t = 0; t < count; ++t) {
    float* dS = tangents.pdr(layer, t);
    double along = 0;
    for (int64_t i = 0; i < d * r; ++i) along += static_cast<double>(S[i]) * dS[i];
    const auto share = static_cast<float>(along / static_cast<double>(square));
    for (int64_t i = 0; i < d * r; ++i) dS[i] = factor * (dS[i] - share * S[i]);
  }
  for (int64_t i = 0; i < d * r; ++i) S[i] *= factor;
}

void TangentPass::Impl::Attention(LayerId layer, SessionState& state, TangentState& tangents) {
  const LayerWeights& w = weights.layers[layer.index()];
  const int64_t head = config.head_dim(), half = head / 2, kv = config.kv_heads * head;
  NormAndSplit(layer, w.norm1, &LayerChange::mixer_gain);
  Project(w.wq, q, dq);
  Project(w.wk, k, dk);
  Project(w.wv, v, dv);
  cos.resize(static_cast<size_t>(rows * half));
  sin.resize(cos.size());
  For(rows, [&](int64_t row) {
    float *c = cos.data() + row * half, *s = sin.data() + row * half;
    angles.At(position + row, c, s);
    const auto rotate = [&](float* of, int64_t heads) {
      for (int64_t i = 0; i < heads; ++i) ops.rope(of + i * head, c, s, head);
    };
    rotate(q.data() + row * config.d, config.heads);
    rotate(k.data() + row * kv, config.kv_heads);
    for (int64_t t = 0; t < count; ++t) {
      rotate(dq.data() + At(t, row) * config.d, config.heads);
      rotate(dk.data() + At(t, row) * kv, config.kv_heads);
    }
  });
  out.resize(static_cast<size_t>(rows * config.d));
  dout.resize(static_cast<size_t>(count) * out.size());
  For(config.kv_heads, [&](int64_t kv_head) { AttendHead(layer, state, tangents, kv_head); });
  AddOutput(w.wo, out, dout, config.d);
}

void TangentPass::Impl::AttendHead(LayerId layer, SessionState& state, TangentState& tangents,
                                   int64_t kv_head) {
  const int64_t n = config.head_dim(), window = config.window, group = config.heads / config.kv_heads;
  const int64_t kv = config.kv_heads * n, ring = kv_head * window * n;
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  uint16_t *keys = state.keys(layer) + ring, *values = state.values(layer) + ring;
  std::vector<float> scratch(static_cast<size_t>(window + 16)), weight(scratch.size());
  std::vector<float> wide_keys(static_cast<size_t>(window * n)), wide_values(wide_keys.size());
  ops.from_fp16(keys, window * n, wide_keys.data());
  ops.from_fp16(values, window * n, wide_values.data());
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t slot = (position + row) % window, len = std::min(position + row + 1, window);
    ops.to_fp16(k.data() + row * kv + kv_head * n, n, keys + slot * n);
    ops.to_fp16(v.data() + row * kv + kv_head * n, n, values + slot * n);
    ops.from_fp16(keys + slot * n, n, wide_keys.data() + slot * n);
    ops.from_fp16(values + slot * n, n, wide_values.data() + slot * n);
    for (int64_t t = 0; t < count; ++t) {
      std::copy_n(dk.data() + At(t, row) * kv + kv_head * n, n, tangents.keys(layer, t) + ring + slot * n);
      std::copy_n(dv.data() + At(t, row) * kv + kv_head * n, n, tangents.values(layer, t) + ring + slot * n);
    }
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const float* query = q.data() + row * config.d + head * n;
      ops.attend(query, keys, values, n, len, scale, scratch.data(), out.data() + row * config.d + head * n);
      float most;
      for (int64_t j = 0; j < len; ++j)
        scratch[static_cast<size_t>(j)] = ops.dot(query, wide_keys.data() + j * n, n) * scale;
      const float sum = ops.exp_sum(scratch.data(), len, weight.data(), &most);
      for (int64_t j = 0; j < len; ++j) weight[static_cast<size_t>(j)] /= sum;
      for (int64_t t = 0; t < count; ++t) {
        const float *dkeys = tangents.keys(layer, t) + ring, *dvalues = tangents.values(layer, t) + ring;
        const float* dquery = dq.data() + At(t, row) * config.d + head * n;
        float mean = 0;
        for (int64_t j = 0; j < len; ++j) {
          const float score =
              (ops.dot(dquery, wide_keys.data() + j * n, n) + ops.dot(query, dkeys + j * n, n)) * scale;
          scratch[static_cast<size_t>(j)] = score;
          mean += weight[static_cast<size_t>(j)] * score;
        }
        float* result = dout.data() + At(t, row) * config.d + head * n;
        std::fill_n(result, n, 0.0f);
        for (int64_t j = 0; j < len; ++j) {
          const float share = weight[static_cast<size_t>(j)];
          const float dshare = share * (scratch[static_cast<size_t>(j)] - mean);
          for (int64_t i = 0; i < n; ++i)
            result[i] += dshare * wide_values[static_cast<size_t>(j * n + i)] + share * dvalues[j * n + i];
        }
      }
    }
  }
}

void TangentPass::Impl::SharedFfn(LayerId layer) {
  const LayerWeights& w = weights.layers[layer.index()];
  const int64_t f = config.f;
  Project(w.gate, p, dp);
  std::vector<int32_t> gate_sums(static_cast<size_t>(rows * f));
  for (int64_t row = 0; row < rows; ++row) std::copy_n(columns.Sums(row), f, gate_sums.data() + row * f);
  Project(w.up, v, dv);
  out.resize(static_cast<size_t>(rows * f));
  dout.resize(static_cast<size_t>(count) * out.size());
  For(rows, [&](int64_t row) {
    ops.swiglu(gate_sums.data() + row * f, columns.Sums(row), 1, w.gate.scale, w.up.scale,
               columns.scale()[row], f, out.data() + row * f);
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t i = 0; i < f; ++i) {
        const auto of = static_cast<size_t>(row * f + i), tangent = static_cast<size_t>(At(t, row) * f + i);
        dout[tangent] = SwigluTangent(p[of], v[of], dp[tangent], dv[tangent]);
      }
    }
  });
  AddOutput(w.down, out, dout, f);
}

void TangentPass::Impl::RouteRows(LayerId layer, SessionState& state, std::span<const TokenId> tokens,
                                  RoutePolicy* policy) {
  const LayerWeights& w = weights.layers[layer.index()];
  const int64_t d = config.d, experts = config.num_experts();
  routes.resize(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; ++row) {
    const float* seen = config.has_slow_state() ? state.slow(layer) : H(row);
    const TorusPoint z = Route(ops, w.route, seen, d);
    ExpertId expert = NearestExpert(z, w.positions, w.route_bias, experts);
    if (w.members != nullptr)
      expert = config.ExpertOf(config.RegionOf(expert), w.members[tokens[static_cast<size_t>(row)].index()]);
    if (policy != nullptr) {
      expert =
          policy->Choose({layer, position + row, z, expert, w.positions, experts, w.route_bias, &config});
    }
    routes[static_cast<size_t>(row)] = expert;
    if (config.has_slow_state()) ops.slow_step(state.slow(layer), H(row), config.slow_rate, d);
  }
}

absl::Status TangentPass::Impl::Experts(LayerId layer) {
  std::map<ExpertId, std::vector<int64_t>> by_expert;
  for (int64_t row = 0; row < rows; ++row) by_expert[routes[static_cast<size_t>(row)]].push_back(row);
  const auto run = [&](const std::pair<const ExpertId, std::vector<int64_t>>& group) -> absl::Status {
    absl::StatusOr<ExpertTiles> tiles = source.Acquire(layer, group.first);
    if (!tiles.ok()) return tiles.status();
    for (int64_t t = 0; tiles->check && t < std::ssize(tiles->tiles); ++t) {
      if (absl::Status s = tiles->check(t); !s.ok()) return s;
    }
    RunExpert(*tiles, group.second);
    return absl::OkStatus();
  };
  if (!source.resident()) {
    for (const auto& group : by_expert) {
      if (absl::Status s = run(group); !s.ok()) return s;
    }
    return absl::OkStatus();
  }
  const std::vector<std::pair<const ExpertId, std::vector<int64_t>>> groups(by_expert.begin(),
                                                                            by_expert.end());
  std::vector<absl::Status> statuses(groups.size());
  For(std::ssize(groups),
      [&](int64_t i) { statuses[static_cast<size_t>(i)] = run(groups[static_cast<size_t>(i)]); });
  for (const absl::Status& status : statuses) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// x and dx of the rows of one expert.
void TangentPass::Impl::RunExpert(const ExpertTiles& expert, const std::vector<int64_t>& members) {
  const TileLayout layout(config.d);
  const int64_t d = config.d, m = std::ssize(members), tiles = std::ssize(expert.tiles);
  const int64_t f_pad = tiles * kTileNeurons, n = m * (1 + 2 * count), tangents = m * count;
  constexpr int64_t kGroups = (2 * kTileNeurons + kernels::kTernaryRows - 1) / kernels::kTernaryRows;
  constexpr int64_t kStride = (kGroups * kernels::kTernaryRows + 15) / 16 * 16;
  // Columns: the members, then the directions' high parts, then their low parts.
  std::vector<int8_t> in(static_cast<size_t>(n * layout.d_pad));
  std::vector<float> scale(static_cast<size_t>(n));
  const auto take = [&](int64_t to, int64_t from) {
    std::copy_n(columns.q(from), layout.d_pad, in.data() + to * layout.d_pad);
    scale[static_cast<size_t>(to)] = columns.scale()[from];
  };
  for (int64_t i = 0; i < m; ++i) {
    take(i, members[static_cast<size_t>(i)]);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t tangent = At(t, members[static_cast<size_t>(i)]);
      take(m + t * m + i, columns.high(tangent));
      take(m + tangents + t * m + i, columns.low(tangent));
    }
  }
  std::vector<float> a(static_cast<size_t>(m * f_pad)), da(static_cast<size_t>(tangents * f_pad));
  std::vector<int32_t> acc(static_cast<size_t>(n * kStride));
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const uint8_t* bytes = expert.tiles[static_cast<size_t>(tile)];
    kernels::TernaryMatrix matrix;
    matrix.base = bytes;
    matrix.group_stride = layout.d_pad;
    matrix.num_blocks = layout.d_pad / kernels::kTernaryCols;
    matrix.num_groups = kGroups;
    const auto* gate_scale = reinterpret_cast<const float*>(bytes + layout.gate_scale_offset());
    const auto* up_scale = reinterpret_cast<const float*>(bytes + layout.up_scale_offset());
    ops.ternary(matrix, in.data(), layout.d_pad, static_cast<int>(n), acc.data(), kStride, 0, kGroups);
    for (int64_t i = 0; i < m; ++i) {
      const int32_t* sums = acc.data() + i * kStride;
      const float input = scale[static_cast<size_t>(i)];
      ops.swiglu(sums, sums + 1, 2, gate_scale, up_scale, input, kTileNeurons,
                 a.data() + i * f_pad + tile * kTileNeurons);
      for (int64_t t = 0; t < count; ++t) {
        const int64_t high = m + t * m + i, low = high + tangents;
        const int32_t *high_sums = acc.data() + high * kStride, *low_sums = acc.data() + low * kStride;
        const float sh = scale[static_cast<size_t>(high)], sl = scale[static_cast<size_t>(low)];
        float* to = da.data() + (t * m + i) * f_pad + tile * kTileNeurons;
        for (int64_t j = 0; j < kTileNeurons; ++j) {
          const auto value = [&](int64_t at) {
            return static_cast<float>(high_sums[at]) * sh + static_cast<float>(low_sums[at]) * sl;
          };
          to[j] = SwigluTangent(static_cast<float>(sums[2 * j]) * (input * gate_scale[j]),
                                static_cast<float>(sums[2 * j + 1]) * (input * up_scale[j]),
                                value(2 * j) * gate_scale[j], value(2 * j + 1) * up_scale[j]);
        }
      }
    }
  }
  TangentColumns inner(pool, ops);
  inner.Resize(m, tangents, f_pad);
  for (int64_t i = 0; i < m; ++i) inner.SetPrimal(i, a.data() + i * f_pad);
  for (int64_t i = 0; i < tangents; ++i) inner.SetTangent(i, da.data() + i * f_pad);
  std::vector<const uint8_t*> table;
  for (const uint8_t* tile : expert.tiles) table.push_back(tile + layout.down_offset());
  kernels::TernaryMatrix down;
  down.table = table.data();
  down.group_stride = kernels::kTernaryBlockBytes;
  down.num_blocks = tiles;
  down.num_groups = layout.down_groups();
  const int64_t stride = PadTo(layout.down_groups() * kernels::kTernaryRows, 16);
  acc.resize(static_cast<size_t>(n * stride));
  ops.ternary(down, inner.q(0), f_pad, static_cast<int>(n), acc.data(), stride, 0, down.num_groups);
  std::vector<float> ones(static_cast<size_t>(d), 1.0f), result(static_cast<size_t>(d));
  for (int64_t i = 0; i < m; ++i) {
    ops.scale_rows(acc.data() + i * stride, ones.data(), inner.scale()[i], d, result.data());
    ops.add(X(members[static_cast<size_t>(i)]), result.data(), d);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t high = inner.high(t * m + i), low = inner.low(t * m + i);
      float* to = Dx(At(t, members[static_cast<size_t>(i)]));
      for (int64_t j = 0; j < d; ++j) {
        to[j] += static_cast<float>(acc[static_cast<size_t>(high * stride + j)]) * inner.scale()[high] +
                 static_cast<float>(acc[static_cast<size_t>(low * stride + j)]) * inner.scale()[low];
      }
    }
  }
}

void TangentPass::Impl::Finish() {
  For(rows, [&](int64_t row) {
    ops.rms_norm(X(row), weights.norm_out, config.d, y.data() + row * config.d);
    for (int64_t t = 0; t < count; ++t) {
      NormTangent(X(row), weights.norm_out, Dx(At(t, row)), config.d, dy.data() + At(t, row) * config.d);
    }
  });
}

TangentPass::TangentPass(const ModelWeights& weights, ExpertSource& source, WorkerPool& pool,
                         const kernels::Ops& ops)
    : impl_(std::make_unique<Impl>(weights, source, pool, ops)) {}
TangentPass::~TangentPass() = default;

absl::Status TangentPass::Run(SessionState& state, TangentState& tangents, std::span<const TokenId> tokens,
                              const RowAdapter& at, std::span<const std::vector<LayerChange>> directions,
                              RoutePolicy* policy) {
  if (absl::Status s = state.BringHome(); !s.ok()) return s;
  Impl& impl = *impl_;
  impl.at = &at;
  impl.directions = directions;
  impl.rows = std::ssize(tokens);
  impl.count = std::ssize(directions);
  impl.position = state.position();
  const auto size = static_cast<size_t>(impl.rows * impl.config.d);
  for (std::vector<float>* part : {&impl.x, &impl.h, &impl.y}) part->resize(size);
  for (std::vector<float>* part : {&impl.dx, &impl.dh, &impl.dy})
    part->resize(static_cast<size_t>(impl.count) * size);
  impl.Embed(tokens);
  for (int64_t l = 0; l < impl.config.layers; ++l) {
    const LayerId layer(static_cast<int32_t>(l));
    const bool attention = impl.config.IsAttention(l);
    if (attention) {
      impl.Attention(layer, state, tangents);
    } else {
      impl.Pdr(layer, state, tangents);
    }
    impl.NormAndSplit(layer, impl.weights.layers[layer.index()].norm2, &LayerChange::ffn_gain);
    if (attention) {
      impl.SharedFfn(layer);
    } else {
      impl.RouteRows(layer, state, tokens, policy);
      if (absl::Status s = impl.Experts(layer); !s.ok()) return s;
    }
  }
  impl.Finish();
  state.set_position(impl.position + impl.rows);
  return absl::OkStatus();
}

std::span<const float> TangentPass::hidden(int64_t token) const {
  return std::span(impl_->y).subspan(static_cast<size_t>(token * impl_->config.d),
                                     static_cast<size_t>(impl_->config.d));
}

std::span<const float> TangentPass::tangent(int64_t direction, int64_t token) const {
  return std::span(impl_->dy).subspan(static_cast<size_t>(impl_->At(direction, token) * impl_->config.d),
                                      static_cast<size_t>(impl_->config.d));
}

int64_t TangentPass::bytes() const {
  int64_t floats = 0;
  const Impl& i = *impl_;
  for (const auto* part : {&i.x, &i.dx, &i.h, &i.dh, &i.y, &i.dy, &i.p, &i.dp, &i.v, &i.dv, &i.k, &i.dk, &i.q,
                           &i.dq, &i.out, &i.dout, &i.gamma, &i.dgamma}) {
    floats += static_cast<int64_t>(part->capacity());
  }
  return floats * static_cast<int64_t>(sizeof(float));
}

}  // namespace omni
