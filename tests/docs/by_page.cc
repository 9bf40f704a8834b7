#include <cmath>
#include <functional>
#include <stdexcept>

#include "tests/docs/operations.h"
#include "tests/docs/page_arithmetic.h"

namespace omni::page {
namespace {

Words One(float x) { return FloatWords({&x, 1}); }

Outputs EachOf(const Record& r, float (*function)(float)) {
  Floats y;
  for (float x : r.Floats("x")) y.push_back(function(x));
  return {{"y", FloatWords(y)}};
}

Outputs DotOf(const Record& r) {
  const Floats a = r.Floats("a"), b = r.Floats("b");
  return {{"y", One(Dot(a.data(), b.data(), static_cast<int64_t>(a.size())))}};
}

Outputs Fp16Of(const Record& r) {
  std::vector<uint16_t> half;
  Floats back;
  for (float x : r.Floats("x")) half.push_back(ToFp16(x));
  for (uint16_t h : half) back.push_back(FromFp16(h));
  return {{"half", HalfWords(half)}, {"back", FloatWords(back)}};
}

Outputs RmsNormOf(const Record& r) {
  return {{"y", FloatWords(RmsNorm(r.Floats("x"), r.Floats("g").data()))}};
}

Outputs QuantizeOf(const Record& r) {
  const Quantized out = Quantize(r.Floats("x"));
  return {{"s", One(out.s)}, {"q", IntegerWords(out.q)}};
}

// Row i of `weights` times q, with the scales.
Floats Linear(const std::vector<int8_t>& weights, const std::vector<int8_t>& q, float s,
              const Floats& scale) {
  Floats y;
  for (size_t i = 0; i < scale.size(); ++i) {
    int64_t sum = 0;
    for (size_t j = 0; j < q.size(); ++j) sum += weights[i * q.size() + j] * q[j];
    y.push_back(Scaled(sum, s, scale[i]));
  }
  return y;
}

Outputs LinearOf(const Record& r) {
  return {{"y", FloatWords(Linear(r.Codes("weights"), r.Codes("q"), r.Float("s"), r.Floats("row_scale")))}};
}

Floats ScaledRow(const Record& r, const std::string& name) {
  const std::vector<int64_t> sums = r.Integers(name + "_sums");
  const Floats scale = r.Floats(name + "_scale");
  Floats out;
  for (size_t i = 0; i < sums.size(); ++i) out.push_back(Scaled(sums[i], r.Float("s"), scale[i]));
  return out;
}

Outputs PdrOf(const Record& r) {
  const Floats p = ScaledRow(r, "p"), v = ScaledRow(r, "v"), q = ScaledRow(r, "q"), b = r.Floats("bp");
  Floats k = ScaledRow(r, "k"), S = r.Floats("S"), gamma, o;
  const float root = std::sqrt(static_cast<float>(k.size()));
  for (float& x : k) x = x / root;
  for (size_t i = 0; i < p.size(); ++i) {
    gamma.push_back(Decay(p[i], b[i], r.Float("floor")));
    float* row = S.data() + i * k.size();
    StepRow(row, gamma[i], v[i], k);
    o.push_back(Dot(row, q.data(), static_cast<int64_t>(q.size())));
  }
  return {
      {"k", FloatWords(k)}, {"gamma", FloatWords(gamma)}, {"S_after", FloatWords(S)}, {"o", FloatWords(o)}};
}

Outputs RenormaliseOf(const Record& r) {
  Floats S = r.Floats("S");
  const int64_t d = r.Integer("d");
  Renormalise(S.data(), d, static_cast<int64_t>(S.size()) / d);
  return {{"S_after", FloatWords(S)}};
}

Outputs RopeOf(const Record& r) {
  Floats x = r.Floats("x");
  const int64_t h = static_cast<int64_t>(x.size());
  const Angles angles = RopeAngles(r.Double("theta"), h, r.Integer("position"));
  Rotate(x.data(), angles, h);
  return {{"cos", FloatWords(angles.cos)}, {"sin", FloatWords(angles.sin)}, {"y", FloatWords(x)}};
}

Outputs SoftmaxOf(const Record& r) {
  const Softmax out = ExpSum(r.Floats("x"));
  Floats w;
  for (float e : out.e) w.push_back(e / out.sum);
  return {{"sum", One(out.sum)}, {"w", FloatWords(w)}};
}

Outputs AttendOf(const Record& r) {
  const Floats q = r.Floats("q");
  const std::vector<uint16_t> keys = r.Halves("K"), values = r.Halves("U");
  const int64_t h = static_cast<int64_t>(q.size()), slots = static_cast<int64_t>(keys.size()) / h;
  return {{"o", FloatWords(Attend(q.data(), keys.data(), values.data(), h, slots))}};
}

Outputs RouteOf(const Record& r) {
  const Floats route = r.Floats("route"), h = r.Floats("h"), positions = r.Floats("positions");
  const int64_t experts = static_cast<int64_t>(positions.size()) / 3;
  const Point z = Landing(route.data(), h);
  Floats distance;
  for (int64_t e = 0; e < experts; ++e) distance.push_back(Distance(z, positions.data() + 3 * e));
  return {{"z", FloatWords(z.axis)},
          {"dist", FloatWords(distance)},
          {"expert", {std::to_string(NearestExpert(z, positions.data(), nullptr, experts))}}};
}

Outputs BiasedOf(const Record& r) {
  const Floats z = r.Floats("z"), positions = r.Floats("positions"), bias = r.Floats("b");
  const Point point{{z[0], z[1], z[2]}};
  return {{"expert",
           {std::to_string(
               NearestExpert(point, positions.data(), bias.data(), static_cast<int64_t>(bias.size())))}}};
}

Outputs SlowOf(const Record& r) {
  Floats u = r.Floats("u");
  SlowStep(u, r.Floats("h"), r.Float("rate"));
  return {{"next", FloatWords(u)}};
}

Outputs ExpertOf(const Record& r) {
  const ExpertNeurons expert{r.Trits("gate"), r.Trits("up"), r.Trits("down"), r.Floats("s_g"),
                             r.Floats("s_u")};
  const Quantized h{r.Codes("q"), r.Float("s")};
  const Floats a = ExpertActivations(expert, h);
  const Quantized qa = Quantize(a);
  return {{"a", FloatWords(a)},
          {"qa", IntegerWords(qa.q)},
          {"sa", One(qa.s)},
          {"out", FloatWords(ExpertOutput(expert, qa, static_cast<int64_t>(h.q.size())))}};
}

Outputs UniformOf(const Record& r) {
  const double u = Uniform(static_cast<uint64_t>(r.Integer("seed")), static_cast<uint64_t>(r.Integer("t")));
  return {{"u", DoubleWords({&u, 1})}};
}

Outputs SampleOf(const Record& r) {
  const std::vector<int64_t> tokens = r.Integers("tokens");
  SamplerSettings settings;
  settings.temperature = r.Float("temperature");
  settings.top_k = r.Integer("top_k");
  settings.top_p = r.Float("top_p");
  settings.min_p = r.Float("min_p");
  settings.penalty = r.Float("penalty");
  settings.window = r.Integer("window");
  settings.seed = static_cast<uint64_t>(r.Integer("seed"));
  const Drawn drawn = Sample(r.Floats("logits"), tokens, tokens.size(), settings);
  return {{"token", {std::to_string(drawn.token)}}, {"probability", One(drawn.probability)}};
}

const std::map<std::string, std::function<Outputs(const Record&)>>& Operations() {
  static const auto* const operations = new std::map<std::string, std::function<Outputs(const Record&)>>{
      {"dot", DotOf},
      {"exp", [](const Record& r) { return EachOf(r, Exp); }},
      {"sigmoid", [](const Record& r) { return EachOf(r, Sigmoid); }},
      {"silu", [](const Record& r) { return EachOf(r, Silu); }},
      {"fp16", Fp16Of},
      {"rmsnorm", RmsNormOf},
      {"quantise", QuantizeOf},
      {"linear two-bit", LinearOf},
      {"linear int8", LinearOf},
      {"recurrence", PdrOf},
      {"renormalise", RenormaliseOf},
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
  return *operations;
}

}  // namespace

std::vector<std::string> OperationNames() {
  std::vector<std::string> names;
  for (const auto& [name, operation] : Operations()) names.push_back(name);
  return names;
}

Outputs ByPage(const Record& record) {
  const auto it = Operations().find(record.operation);
  if (it == Operations().end()) {
    throw std::runtime_error("line " + std::to_string(record.line) + ": no operation is called " +
                             record.operation);
  }
  return it->second(record);
}

}  // namespace omni::page
