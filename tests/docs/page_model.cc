#include "tests/docs/page_model.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace omni::page {
namespace {

std::string Name(int64_t layer, const char* weight) {
  return "layers." + std::to_string(layer) + "." + weight;
}

void AddTo(Floats& x, const Floats& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] = x[i] + y[i];
}

template <typename T>
void Put(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

Model::Model(const ModelFiles& files) : files_(files), c_(files.config()) {
  for (int64_t layer = 0; layer < c_.layers; ++layer) {
    if (c_.IsAttention(layer)) {
      const size_t halves = static_cast<size_t>(c_.kv_heads * c_.window * c_.head());
      rings_[layer] = {std::vector<uint16_t>(halves), std::vector<uint16_t>(halves)};
    } else {
      states_[layer] = Floats(static_cast<size_t>(c_.d * c_.r));
      if (c_.HasSlowState()) slow_[layer] = Floats(static_cast<size_t>(c_.d));
    }
  }
}

Floats Model::Linear(const std::string& name, const Quantized& x) const {
  const Matrix& m = files_.matrix(name);
  Floats y;
  for (int64_t i = 0; i < m.rows; ++i) {
    int64_t sum = 0;
    for (int64_t j = 0; j < m.cols; ++j) {
      sum += m.weights[static_cast<size_t>(i * m.cols + j)] * x.q[static_cast<size_t>(j)];
    }
    y.push_back(Scaled(sum, x.s, m.scale[static_cast<size_t>(i)]));
  }
  return y;
}

Floats Model::Recurrence(int64_t layer, const Quantized& x) {
  const Floats p = Linear(Name(layer, "wp"), x), v = Linear(Name(layer, "wv"), x);
  Floats k = Linear(Name(layer, "wk"), x);
  const Floats q = Linear(Name(layer, "wq"), x), &bp = files_.floats(Name(layer, "bp"));
  if (c_.key_scale) {
    const float root = std::sqrt(static_cast<float>(c_.r));
    for (float& value : k) value = value / root;
  }
  const float floor = static_cast<float>(std::exp(static_cast<double>(c_.decay_floor)));
  Floats& S = states_.at(layer);
  Floats o;
  for (size_t i = 0; i < p.size(); ++i) {
    float* row = S.data() + i * k.size();
    StepRow(row, Decay(p[i], bp[i], floor), v[i], k);
    o.push_back(Dot(row, q.data(), c_.r));
  }
  if ((position_ + 1) % c_.state_norm_period == 0) {
    const Floats before = S;
    Renormalise(S.data(), c_.d, c_.r);
    renormalisations_ += S != before;
  }
  if (c_.readout_norm) o = RmsNorm(o, files_.floats(Name(layer, "norm_readout")).data());
  return Linear(Name(layer, "wo"), Quantize(o));
}

Floats Model::Attention(int64_t layer, const Quantized& x) {
  const int64_t h = c_.head(), slot = position_ % c_.window, slots = std::min(position_ + 1, c_.window);
  Floats q = Linear(Name(layer, "wq"), x), k = Linear(Name(layer, "wk"), x);
  const Floats v = Linear(Name(layer, "wv"), x);
  const Angles angles = RopeAngles(c_.rope_theta, h, position_);
  for (int64_t head = 0; head < c_.heads; ++head) Rotate(q.data() + head * h, angles, h);
  for (int64_t head = 0; head < c_.kv_heads; ++head) Rotate(k.data() + head * h, angles, h);
  Ring& ring = rings_.at(layer);
  for (int64_t head = 0; head < c_.kv_heads; ++head) {
    for (int64_t i = 0; i < h; ++i) {
      const size_t from = static_cast<size_t>(head * h + i);
      const size_t to = static_cast<size_t>((head * c_.window + slot) * h + i);
      ring.keys[to] = ToFp16(k[from]);
      ring.values[to] = ToFp16(v[from]);
    }
  }
  Floats out;
  for (int64_t head = 0; head < c_.heads; ++head) {
    const int64_t at = head / (c_.heads / c_.kv_heads) * c_.window * h;
    const Floats o = Attend(q.data() + head * h, ring.keys.data() + at, ring.values.data() + at, h, slots);
    out.insert(out.end(), o.begin(), o.end());
  }
  return Linear(Name(layer, "wo"), Quantize(out));
}

Floats Model::SharedFfn(int64_t layer, const Quantized& h) const {
  const Floats g = Linear(Name(layer, "gate"), h), u = Linear(Name(layer, "up"), h);
  Floats a;
  for (size_t n = 0; n < g.size(); ++n) a.push_back(u[n] * Silu(g[n]));
  return Linear(Name(layer, "down"), Quantize(a));
}

const ExpertNeurons& Model::Expert(int64_t layer, int64_t expert) {
  auto [it, fresh] = experts_.try_emplace({layer, expert});
  if (fresh) it->second = files_.Expert(layer, expert);
  return it->second;
}

int64_t Model::RouteOf(int64_t layer, int64_t token, const Floats& h) {
  const float* route = files_.floats(Name(layer, "route")).data();
  const float* bias = c_.route_bias ? files_.floats(Name(layer, "route_bias")).data() : nullptr;
  const Point z = Landing(route, c_.HasSlowState() ? slow_.at(layer) : h);
  if (c_.HasSlowState()) SlowStep(slow_.at(layer), h, c_.slow_rate);
  const int64_t nearest =
      NearestExpert(z, files_.floats(Name(layer, "positions")).data(), bias, c_.experts());
  if (c_.route_from != "address") return nearest;
  const int64_t member =
      static_cast<uint8_t>(files_.bytes(Name(layer, "members"))[static_cast<size_t>(token)]);
  const auto& [X, Y, Z] = c_.lattice;
  const auto& [x, y, z_edge] = c_.region;
  const int64_t i = nearest % X / x * x + member % x;
  const int64_t j = nearest / X % Y / y * y + member / x % y;
  const int64_t k = nearest / X / Y / z_edge * z_edge + member / x / y;
  return i + X * (j + Y * k);
}

Model::Result Model::Consume(int64_t token) {
  const Matrix& embed = files_.matrix("embed");
  Floats x;
  for (int64_t i = 0; i < c_.d; ++i) {
    const int8_t q = embed.weights[static_cast<size_t>(token * c_.d + i)];
    x.push_back(static_cast<float>(q) * embed.scale[static_cast<size_t>(token)]);
  }
  Result result;
  for (int64_t layer = 0; layer < c_.layers; ++layer) {
    const Quantized in = Quantize(RmsNorm(x, files_.floats(Name(layer, "norm1")).data()));
    AddTo(x, c_.IsAttention(layer) ? Attention(layer, in) : Recurrence(layer, in));
    const Floats h = RmsNorm(x, files_.floats(Name(layer, "norm2")).data());
    if (c_.IsAttention(layer)) {
      AddTo(x, SharedFfn(layer, Quantize(h)));
      continue;
    }
    result.routes.push_back(RouteOf(layer, token, h));
    const ExpertNeurons& expert = Expert(layer, result.routes.back());
    AddTo(x, ExpertOutput(expert, Quantize(ExpertActivations(expert, Quantize(h))), c_.d));
  }
  ++position_;
  result.logits = Linear("embed", Quantize(RmsNorm(x, files_.floats("norm_out").data())));
  return result;
}

std::string Model::SaveState() const {
  std::string floats, halves;
  for (const auto& [layer, S] : states_) floats.append(reinterpret_cast<const char*>(S.data()), 4 * S.size());
  for (const auto& [layer, ring] : rings_) {
    halves.append(reinterpret_cast<const char*>(ring.keys.data()), 2 * ring.keys.size());
    halves.append(reinterpret_cast<const char*>(ring.values.data()), 2 * ring.values.size());
  }
  std::string slow;
  for (const auto& [layer, u] : slow_) slow.append(reinterpret_cast<const char*>(u.data()), 4 * u.size());
  std::vector<int64_t> meaning = {c_.layers,
                                  c_.attention_period,
                                  c_.d,
                                  c_.r,
                                  c_.heads,
                                  c_.kv_heads,
                                  c_.window,
                                  c_.key_scale,
                                  c_.readout_norm,
                                  c_.state_norm_period,
                                  std::bit_cast<int32_t>(c_.decay_floor),
                                  std::bit_cast<int64_t>(c_.rope_theta)};
  std::string out = "OMNISESS";
  if (c_.HasSlowState()) {
    meaning.push_back(c_.route_from == "ahead" ? 1 : 2);
    meaning.push_back(std::bit_cast<int32_t>(c_.slow_rate));
  }
  Put(&out, uint32_t{c_.HasSlowState() ? 2u : 1u});
  Put(&out, uint32_t{0});
  Put(&out, uint64_t{XXH3_64bits(meaning.data(), 8 * meaning.size())});
  Put(&out, position_);
  Put(&out, uint64_t{floats.size() / 4});
  Put(&out, uint64_t{halves.size() / 2});
  out += floats + halves + slow;
  Put(&out, uint64_t{XXH3_64bits(out.data(), out.size())});
  return out;
}

}  // namespace omni::page
