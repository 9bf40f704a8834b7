#include "tests/testing/reference_model.h"

#include <algorithm>
#include <cmath>

namespace omni::testing {
namespace {

double Silu(double x) { return x / (1 + std::exp(-x)); }

double ThroughFp16(double x) { return kernels::FromFp16(kernels::ToFp16(static_cast<float>(x))); }

void AddTo(std::vector<double>& x, const std::vector<double>& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

}  // namespace

ReferenceModel::ReferenceModel(const RandomModel& model) : model_(model), c_(model.config()) {
  state_.assign(static_cast<size_t>(c_.layers), Vector(static_cast<size_t>(c_.d * c_.r)));
  slow_.assign(state_.size(), Vector(static_cast<size_t>(c_.d)));
  keys_.resize(state_.size());
  values_.resize(state_.size());
}

ReferenceModel::Quantized ReferenceModel::Quantize(const Vector& x) {
  Quantized out;
  double largest = 0;
  for (double v : x) largest = std::max(largest, std::fabs(v));
  out.scale = largest / 127;
  for (double v : x) out.q.push_back(largest > 0 ? static_cast<int64_t>(std::nearbyint(v / out.scale)) : 0);
  return out;
}

ReferenceModel::Vector ReferenceModel::Multiply(const PlainLinear& linear, const Quantized& x) {
  Vector y;
  for (int64_t row = 0; row < linear.rows; ++row) {
    int64_t sum = 0;
    for (int64_t col = 0; col < linear.cols; ++col) {
      sum += linear.levels[static_cast<size_t>(row * linear.cols + col)] * x.q[static_cast<size_t>(col)];
    }
    y.push_back(static_cast<double>(sum) * x.scale * linear.scale[static_cast<size_t>(row)]);
  }
  return y;
}

ReferenceModel::Vector ReferenceModel::Norm(const Vector& x, const std::vector<float>& gain) {
  double sum = 0;
  for (double v : x) sum += v * v;
  const double inverse = 1 / std::sqrt(sum / static_cast<double>(x.size()) + 1e-6);
  Vector y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] * inverse * gain[i]);
  return y;
}

ReferenceModel::Vector ReferenceModel::Pdr(int64_t layer, const Vector& x) {
  const PlainLayer& w = model_.plain(layer);
  const Quantized in = Quantize(Norm(x, w.norm1));
  const Vector p = Multiply(w.wp, in), q = Multiply(w.wq, in), v = Multiply(w.wv, in);
  Vector k = Multiply(w.wk, in);
  if (c_.key_scale) {
    for (double& value : k) value /= std::sqrt(static_cast<double>(c_.r));
  }
  Vector& S = state_[static_cast<size_t>(layer)];
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
  if ((position_ + 1) % c_.state_norm_period == 0 && std::sqrt(norm) > limit) {
    for (double& s : S) s *= limit / std::sqrt(norm);
  }
  return Multiply(w.wo, Quantize(c_.readout_norm ? Norm(readout, w.norm_readout) : readout));
}

void ReferenceModel::Rotate(double* head) {
  const int64_t h = c_.head_dim();
  for (int64_t i = 0; i < h / 2; ++i) {
    const double angle = static_cast<double>(position_) *
                         std::pow(c_.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(h));
    const double a = head[i], b = head[i + h / 2];
    head[i] = a * std::cos(angle) - b * std::sin(angle);
    head[i + h / 2] = a * std::sin(angle) + b * std::cos(angle);
  }
}

ReferenceModel::Vector ReferenceModel::Attention(int64_t layer, const Vector& x) {
  const PlainLayer& w = model_.plain(layer);
  const int64_t h = c_.head_dim();
  const Quantized in = Quantize(Norm(x, w.norm1));
  Vector q = Multiply(w.wq, in), k = Multiply(w.wk, in), v = Multiply(w.wv, in);
  for (int64_t head = 0; head < c_.heads; ++head) Rotate(q.data() + head * h);
  for (int64_t head = 0; head < c_.kv_heads; ++head) Rotate(k.data() + head * h);
  for (double& value : k) value = ThroughFp16(value);
  for (double& value : v) value = ThroughFp16(value);
  auto& keys = keys_[static_cast<size_t>(layer)];
  auto& values = values_[static_cast<size_t>(layer)];
  keys.push_back(k);
  values.push_back(v);

  const size_t first = static_cast<size_t>(std::max<int64_t>(0, position_ + 1 - c_.window));
  Vector out(static_cast<size_t>(c_.d));
  for (int64_t head = 0; head < c_.heads; ++head) {
    const int64_t kv_head = head / (c_.heads / c_.kv_heads);
    Vector weight;
    double sum = 0;
    for (size_t at = first; at < keys.size(); ++at) {
      double score = 0;
      for (int64_t i = 0; i < h; ++i) score += q[head * h + i] * keys[at][kv_head * h + i];
      weight.push_back(std::exp(score / std::sqrt(static_cast<double>(h))));
      sum += weight.back();
    }
    for (size_t at = first; at < keys.size(); ++at) {
      for (int64_t i = 0; i < h; ++i)
        out[head * h + i] += weight[at - first] / sum * values[at][kv_head * h + i];
    }
  }
  return Multiply(w.wo, Quantize(out));
}

ReferenceModel::Vector ReferenceModel::SharedFfn(int64_t layer, const Vector& h) {
  const PlainLayer& w = model_.plain(layer);
  const Quantized in = Quantize(h);
  const Vector gate = Multiply(w.gate, in), up = Multiply(w.up, in);
  Vector a;
  for (size_t i = 0; i < gate.size(); ++i) a.push_back(up[i] * Silu(gate[i]));
  return Multiply(w.down, Quantize(a));
}

ExpertId ReferenceModel::RouteOf(int64_t layer, const Vector& h, TokenId token) {
  const PlainLayer& w = model_.plain(layer);
  Vector seen = h;
  if (c_.has_slow_state()) {
    Vector& u = slow_[static_cast<size_t>(layer)];
    seen = u;
    for (size_t i = 0; i < u.size(); ++i) u[i] += static_cast<double>(c_.slow_rate) * (h[i] - u[i]);
  }
  double z[3] = {};
  for (size_t axis = 0; axis < 3; ++axis) {
    for (size_t i = 0; i < h.size(); ++i) z[axis] += w.route[axis * h.size() + i] * seen[i];
    z[axis] -= std::floor(z[axis]);
  }
  int32_t best = 0;
  double least = 3;
  for (int32_t e = 0; e < c_.num_experts(); ++e) {
    double distance = c_.route_bias ? -w.route_bias[static_cast<size_t>(e)] : 0;
    for (int32_t axis = 0; axis < 3; ++axis) {
      const double direct = std::fabs(z[axis] - w.positions[static_cast<size_t>(3 * e + axis)]);
      distance += std::pow(std::min(direct, 1 - direct), 2);
    }
    if (distance < least) least = distance, best = e;
  }
  if (c_.route_from != RouteFrom::kAddress) return ExpertId(best);
  return c_.ExpertOf(c_.RegionOf(ExpertId(best)), w.members[token.index()]);
}

ReferenceModel::Vector ReferenceModel::ExpertFfn(int64_t layer, ExpertId expert, const Vector& h) {
  const PlainExpert w = model_.MakeExpert(LayerId(static_cast<int32_t>(layer)), expert);
  const Quantized in = Quantize(h);
  const size_t d = h.size();
  Vector a;
  for (size_t n = 0; n < w.gate_scale.size(); ++n) {
    int64_t gate = 0, up = 0;
    for (size_t i = 0; i < d; ++i) {
      gate += w.gate[n * d + i] * in.q[i];
      up += w.up[n * d + i] * in.q[i];
    }
    a.push_back(static_cast<double>(up) * in.scale * w.up_scale[n] *
                Silu(static_cast<double>(gate) * in.scale * w.gate_scale[n]));
  }
  const Quantized qa = Quantize(a);
  Vector out;
  for (size_t i = 0; i < d; ++i) {
    int64_t sum = 0;
    for (size_t n = 0; n < a.size(); ++n) sum += w.down[n * d + i] * qa.q[n];
    out.push_back(static_cast<double>(sum) * qa.scale);
  }
  return out;
}

std::vector<double> ReferenceModel::Step(TokenId token, std::vector<ExpertId>* routes) {
  const float* embedding_scale = model_.weights().embedding_scale;
  Vector x;
  for (int64_t i = 0; i < c_.d; ++i) {
    x.push_back(static_cast<double>(model_.embedding(token.value, i)) * embedding_scale[token.index()]);
  }
  routes->clear();
  for (int64_t layer = 0; layer < c_.layers; ++layer) {
    const bool attention = c_.IsAttention(layer);
    AddTo(x, attention ? Attention(layer, x) : Pdr(layer, x));
    const Vector h = Norm(x, model_.plain(layer).norm2);
    if (attention) {
      AddTo(x, SharedFfn(layer, h));
    } else {
      routes->push_back(RouteOf(layer, h, token));
      AddTo(x, ExpertFfn(layer, routes->back(), h));
    }
  }
  ++position_;
  const float* norm_out = model_.weights().norm_out;
  const Quantized y = Quantize(Norm(x, std::vector<float>(norm_out, norm_out + c_.d)));
  std::vector<double> logits;
  for (int64_t v = 0; v < c_.vocab; ++v) {
    int64_t sum = 0;
    for (int64_t i = 0; i < c_.d; ++i) sum += model_.embedding(v, i) * y.q[static_cast<size_t>(i)];
    logits.push_back(static_cast<double>(sum) * y.scale * embedding_scale[v]);
  }
  return logits;
}

}  // namespace omni::testing
