#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "engine/base/splitmix.h"
#include "engine/decode/decoder.h"
#include "engine/decode/rope.h"
#include "engine/decode/router.h"
#include "engine/decode/worker_pool.h"
#include "engine/text/sampler.h"
#include "tests/docs/operations.h"

namespace omni::page {
namespace {

using kernels::Ops;
using Floats = std::vector<float>;

int64_t Size(const auto& x) { return static_cast<int64_t>(x.size()); }

Words One(float x) { return FloatWords({&x, 1}); }

Outputs DotOf(const Record& r, const Ops& ops) {
  const Floats a = r.Floats("a"), b = r.Floats("b");
  return {{"y", One(ops.dot(a.data(), b.data(), Size(a)))}};
}

// A variant shows its exp to arguments not above 0, in softmax.
Outputs ExpOf(const Record& r, const Ops& ops) {
  const Floats x = r.Floats("x");
  Floats from_zero = {0}, e(x.size() + 1), y;
  for (float v : x) from_zero.push_back(v > 0 ? 0 : v);
  float max = 0;
  ops.exp_sum(from_zero.data(), Size(from_zero), e.data(), &max);
  for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] > 0 ? kernels::Exp(x[i]) : e[i + 1]);
  return {{"y", FloatWords(y)}};
}

Outputs SigmoidOf(const Record& r, const Ops& ops) {
  const Floats x = r.Floats("x"), zeros(x.size());
  Floats y(x.size());
  ops.decay(x.data(), zeros.data(), 0.0f, Size(x), y.data());
  return {{"y", FloatWords(y)}};
}

Outputs SiluOf(const Record& r, const Ops& ops) {
  const Floats x = r.Floats("x"), ones(x.size(), 1.0f);
  const std::vector<int32_t> one(x.size(), 1);
  Floats y(x.size());
  ops.swiglu(one.data(), one.data(), 1, x.data(), ones.data(), 1.0f, Size(x), y.data());
  return {{"y", FloatWords(y)}};
}

Outputs Fp16Of(const Record& r, const Ops& ops) {
  const Floats x = r.Floats("x");
  std::vector<uint16_t> half(x.size());
  Floats back(x.size());
  ops.to_fp16(x.data(), Size(x), half.data());
  ops.from_fp16(half.data(), Size(x), back.data());
  return {{"half", HalfWords(half)}, {"back", FloatWords(back)}};
}

Outputs RmsNormOf(const Record& r, const Ops& ops) {
  const Floats x = r.Floats("x"), g = r.Floats("g");
  Floats y(x.size());
  ops.rms_norm(x.data(), g.data(), Size(x), y.data());
  return {{"y", FloatWords(y)}};
}

Outputs QuantizeOf(const Record& r, const Ops& ops) {
  const Floats x = r.Floats("x");
  std::vector<int8_t> q(x.size());
  float s = -1;
  ops.quantize(x.data(), Size(x), Size(x), q.data(), &s);
  return {{"s", One(s)}, {"q", IntegerWords(q)}};
}

std::vector<int8_t> PaddedTo64(std::vector<int8_t> q) {
  q.resize((q.size() + 63) / 64 * 64);
  return q;
}

Outputs TwoBitLinearOf(const Record& r, const Ops& ops) {
  const std::vector<int8_t> weights = r.Codes("weights"), q = r.Codes("q"), padded = PaddedTo64(q);
  const Floats scale = r.Floats("row_scale");
  const size_t rows = scale.size(), cols = q.size(), groups = (rows + 3) / 4;
  std::vector<uint8_t> bytes(groups * padded.size());
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < cols; ++j) {
      bytes[i / 4 * padded.size() + j] |=
          static_cast<uint8_t>((weights[i * cols + j] + 3) / 2 << 2 * (i % 4));
    }
  }
  const kernels::TwoBitMatrix m{bytes.data(), Size(padded) / 64, static_cast<int64_t>(groups)};
  std::vector<int32_t> sums(4 * groups);
  ops.two_bit(m, padded.data(), Size(padded), 1, sums.data(), Size(sums), 0, m.num_groups);
  Floats y(rows);
  ops.scale_rows(sums.data(), scale.data(), r.Float("s"), Size(y), y.data());
  return {{"y", FloatWords(y)}};
}

Outputs Int8LinearOf(const Record& r, const Ops& ops) {
  const std::vector<int8_t> weights = r.Codes("weights"), q = r.Codes("q"), padded = PaddedTo64(q);
  const Floats scale = r.Floats("row_scale");
  std::vector<int8_t> bytes(scale.size() * padded.size());
  for (size_t i = 0; i < scale.size(); ++i) {
    for (size_t j = 0; j < q.size(); ++j) bytes[i * padded.size() + j] = weights[i * q.size() + j];
  }
  const kernels::Int8Matrix m{bytes.data(), Size(padded), Size(padded), Size(scale)};
  std::vector<int32_t> sums(scale.size());
  ops.int8(m, padded.data(), Size(padded), 1, sums.data(), Size(sums), 0, Size(sums));
  Floats y(scale.size());
  ops.scale_rows(sums.data(), scale.data(), r.Float("s"), Size(y), y.data());
  return {{"y", FloatWords(y)}};
}

Floats ScaledRow(const Record& r, const Ops& ops, const std::string& name) {
  const std::vector<int64_t> wide = r.Integers(name + "_sums");
  const std::vector<int32_t> sums(wide.begin(), wide.end());
  const Floats scale = r.Floats(name + "_scale");
  Floats out(sums.size());
  ops.scale_rows(sums.data(), scale.data(), r.Float("s"), Size(out), out.data());
  return out;
}

// The kernels' part: the division of the key is the mixer's, and comes from the page.
Outputs PdrOf(const Record& r, const Ops& ops) {
  const Floats p = ScaledRow(r, ops, "p"), v = ScaledRow(r, ops, "v"), q = ScaledRow(r, ops, "q");
  const Floats k = r.Floats("k"), b = r.Floats("bp");
  Floats gamma(p.size()), S = r.Floats("S"), o(p.size());
  ops.decay(p.data(), b.data(), r.Float("floor"), Size(p), gamma.data());
  ops.pdr_step(S.data(), gamma.data(), v.data(), k.data(), q.data(), Size(p), Size(k), o.data());
  return {{"gamma", FloatWords(gamma)}, {"S_after", FloatWords(S)}, {"o", FloatWords(o)}};
}

Outputs RopeOf(const Record& r, const Ops& ops) {
  Floats x = r.Floats("x");
  const RopeAngles angles(r.Double("theta"), Size(x));
  Floats cos(x.size() / 2), sin(x.size() / 2);
  angles.At(r.Integer("position"), cos.data(), sin.data());
  ops.rope(x.data(), cos.data(), sin.data(), Size(x));
  return {{"cos", FloatWords(cos)}, {"sin", FloatWords(sin)}, {"y", FloatWords(x)}};
}

Outputs SoftmaxOf(const Record& r, const Ops& ops) {
  const Floats x = r.Floats("x");
  Floats e(x.size());
  float max = 0;
  const float sum = ops.exp_sum(x.data(), Size(x), e.data(), &max);
  for (float& v : e) v = v / sum;
  return {{"sum", One(sum)}, {"w", FloatWords(e)}};
}

Outputs AttendOf(const Record& r, const Ops& ops) {
  const Floats q = r.Floats("q");
  const std::vector<uint16_t> keys = r.Halves("K"), values = r.Halves("U");
  const int64_t slots = Size(keys) / Size(q);
  Floats scratch(static_cast<size_t>(slots) + 16), out(q.size());
  const float scale = 1.0f / std::sqrt(static_cast<float>(q.size()));
  ops.attend(q.data(), keys.data(), values.data(), Size(q), slots, scale, scratch.data(), out.data());
  return {{"o", FloatWords(out)}};
}

Outputs RouteOf(const Record& r, const Ops& ops) {
  const Floats route = r.Floats("route"), h = r.Floats("h"), positions = r.Floats("positions");
  const TorusPoint z = Route(ops, route.data(), h.data(), Size(h));
  Floats distance;
  for (size_t e = 0; e < positions.size() / 3; ++e) {
    distance.push_back(TorusDistanceSquared(z, positions.data() + 3 * e));
  }
  const ExpertId nearest = NearestExpert(z, positions.data(), nullptr, Size(distance));
  return {{"z", FloatWords(z)}, {"dist", FloatWords(distance)}, {"expert", {std::to_string(nearest.value)}}};
}

Outputs BiasedOf(const Record& r, const Ops&) {
  const Floats z = r.Floats("z"), positions = r.Floats("positions"), bias = r.Floats("b");
  const ExpertId nearest = NearestExpert({z[0], z[1], z[2]}, positions.data(), bias.data(), Size(bias));
  return {{"expert", {std::to_string(nearest.value)}}};
}

Outputs SlowOf(const Record& r, const Ops& ops) {
  Floats u = r.Floats("u");
  const Floats h = r.Floats("h");
  ops.slow_step(u.data(), h.data(), r.Float("rate"), Size(u));
  return {{"next", FloatWords(u)}};
}

// One tile of at most 64 neurons, by docs/formats.md.
std::vector<uint8_t> Tile(const Record& r, size_t d) {
  const std::vector<int8_t> gate = r.Trits("gate"), up = r.Trits("up"), down = r.Trits("down");
  const Floats s_g = r.Floats("s_g"), s_u = r.Floats("s_u");
  const size_t d_pad = (d + 63) / 64 * 64, down_at = 26 * d_pad, scales_at = down_at + (d + 4) / 5 * 64;
  std::vector<uint8_t> tile(scales_at + 512);
  std::fill(tile.begin(), tile.begin() + static_cast<std::ptrdiff_t>(scales_at), kernels::kTernaryZeroCode);
  constexpr int kPower[5] = {1, 3, 9, 27, 81};
  const auto put = [&](size_t at, size_t row, int8_t trit) {
    tile[at] = static_cast<uint8_t>(tile[at] + trit * kPower[row % 5]);
  };
  for (size_t n = 0; n < s_g.size(); ++n) {
    for (size_t i = 0; i < d; ++i) {
      put(2 * n / 5 * d_pad + i, 2 * n, gate[n * d + i]);
      put((2 * n + 1) / 5 * d_pad + i, 2 * n + 1, up[n * d + i]);
      put(down_at + i / 5 * 64 + n, i, down[n * d + i]);
    }
    std::memcpy(&tile[scales_at + 4 * n], &s_g[n], 4);
    std::memcpy(&tile[scales_at + 256 + 4 * n], &s_u[n], 4);
  }
  return tile;
}

Outputs ExpertOf(const Record& r, const Ops& ops) {
  const std::vector<int8_t> q = r.Codes("q"), padded = PaddedTo64(q);
  const float s = r.Float("s");
  ModelConfig config;
  config.d = Size(q);
  config.f = Size(r.Floats("s_g"));
  const std::vector<uint8_t> tile = Tile(r, q.size());
  const uint8_t* const tiles[] = {tile.data()};
  const ExpertJob job{LayerId(0), ExpertId(0), {0}, padded.data(), Size(padded), &s};
  WorkerPool pool(1);
  Floats out(q.size());
  const absl::Status status = RunExpert(config, {tiles, nullptr}, job, pool, out.data(), ops);
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
  return {{"out", FloatWords(out)}};
}

Outputs UniformOf(const Record& r, const Ops&) {
  const double u =
      CounterUniform(static_cast<uint64_t>(r.Integer("seed")), static_cast<uint64_t>(r.Integer("t")));
  return {{"u", DoubleWords({&u, 1})}};
}

// By the kernels in use, whichever are asked for.
Outputs SampleOf(const Record& r, const Ops&) {
  std::vector<TokenId> tokens;
  for (int64_t token : r.Integers("tokens")) tokens.emplace_back(static_cast<int32_t>(token));
  SamplerSettings settings;
  settings.temperature = r.Float("temperature");
  settings.top_k = static_cast<int32_t>(r.Integer("top_k"));
  settings.top_p = r.Float("top_p");
  settings.min_p = r.Float("min_p");
  settings.repetition_penalty = r.Float("penalty");
  settings.repetition_window = static_cast<int32_t>(r.Integer("window"));
  settings.seed = static_cast<uint64_t>(r.Integer("seed"));
  const Sampled drawn = Sample(r.Floats("logits"), tokens, tokens.size(), settings);
  return {{"token", {std::to_string(drawn.token.value)}}, {"probability", One(drawn.probability)}};
}

}  // namespace

Outputs ByProduct(const Record& record, const kernels::Ops& ops) {
  static const auto* const operations =
      new std::map<std::string, std::function<Outputs(const Record&, const Ops&)>>{
          {"dot", DotOf},
          {"exp", ExpOf},
          {"sigmoid", SigmoidOf},
          {"silu", SiluOf},
          {"fp16", Fp16Of},
          {"rmsnorm", RmsNormOf},
          {"quantise", QuantizeOf},
          {"linear two-bit", TwoBitLinearOf},
          {"linear int8", Int8LinearOf},
          {"recurrence", PdrOf},
          // The mixer's own, seen in the logits alone (page_model_test).
          {"renormalise", [](const Record&, const Ops&) { return Outputs(); }},
          {"rotate", RopeOf},
          {"softmax", SoftmaxOf},
          {"attend", AttendOf},
          {"route", RouteOf},
          {"slow", SlowOf},
          {"biased", BiasedOf},
          {"expert", ExpertOf},
          {"uniform", UniformOf},
          {"sample", SampleOf},
      };
  return operations->at(record.operation)(record, ops);
}

}  // namespace omni::page
