// Sampling from any logits under any valid settings: a token that may be drawn, and always the same one.
#include "engine/text/sampler.h"

#include <algorithm>
#include <cmath>

#include "tests/fuzz/fuzz.h"

namespace omni::fuzz {

const int kRuns = 200000;

namespace {

bool Drawable(float logit) { return !std::isnan(logit) && logit > -INFINITY; }

// How many drawable logits are larger, infinite ones counting as the largest finite.
size_t Rank(const std::vector<float>& logits, size_t id) {
  const auto value = [&](size_t i) { return std::min(logits[i], std::numeric_limits<float>::max()); };
  size_t larger = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    larger += Drawable(logits[i]) && (value(i) > value(id) || (value(i) == value(id) && i < id));
  }
  return larger;
}

template <typename T>
void Put(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string Seed(const SamplerSettings& s, const std::vector<float>& logits) {
  std::string out;
  for (float f : {s.temperature, s.top_p, s.min_p, s.repetition_penalty}) Put(&out, f);
  for (int32_t n : {s.top_k, s.repetition_window}) Put(&out, n);
  Put(&out, s.seed);
  Put(&out, uint64_t{17});
  out += "\x02\x01\x03";
  for (float l : logits) Put(&out, l);
  return out;
}

}  // namespace

std::vector<std::string> Seeds() {
  SamplerSettings greedy, hot, penalised;
  greedy.temperature = 0;
  hot.temperature = 100, hot.top_k = 0, hot.top_p = 1;
  penalised.repetition_penalty = 1.3f, penalised.min_p = 0.1f;
  const std::vector<float> plain = {0.1f, -2, 3, 3, 0.5f, -7, 12};
  const std::vector<float> wild = {INFINITY, -INFINITY, NAN, 3e38f, -3e38f, 1e-45f, -0.0f, 0.0f};
  return {Seed({}, plain),       Seed(greedy, plain), Seed(hot, wild),
          Seed(penalised, wild), Seed({}, {}),        Seed(hot, {NAN})};
}

}  // namespace omni::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace omni;
  using namespace omni::fuzz;
  Input input(data, std::min<size_t>(size, 2000));
  SamplerSettings s;
  for (float* f : {&s.temperature, &s.top_p, &s.min_p, &s.repetition_penalty}) *f = input.Value<float>();
  for (int32_t* n : {&s.top_k, &s.repetition_window}) *n = input.Value<int32_t>();
  s.seed = input.Value<uint64_t>();
  const uint64_t position = input.Value<uint64_t>();
  std::vector<TokenId> history(input.Byte() % 8);
  for (TokenId& id : history) id = TokenId(static_cast<int8_t>(input.Byte()));
  std::vector<float> logits(input.rest().size() / sizeof(float));
  for (float& l : logits) l = input.Value<float>();
  if (const absl::Status status = Validate(s); !status.ok()) {
    RequireReadable(status);
    s = {};
  }
  const Sampled drawn = Sample(logits, history, position, s);
  const Sampled again = Sample(logits, history, position, s);
  Require(drawn.token == again.token && drawn.probability == again.probability, "a draw is repeatable");
  Require(drawn.probability >= 0 && drawn.probability <= 1, "a probability is in [0, 1]");
  if (std::none_of(logits.begin(), logits.end(), Drawable)) {
    Require(drawn.token == TokenId(0) && drawn.probability == 0, "without a logit there is token 0");
    return 0;
  }
  Require(
      drawn.token.value >= 0 && drawn.token.index() < logits.size() && Drawable(logits[drawn.token.index()]),
      "a token that may be drawn is drawn");
  if (s.repetition_penalty == 1.0f) {
    const size_t rank = Rank(logits, drawn.token.index());
    Require(s.temperature > 0 || rank == 0, "greedy takes the largest, of equal ones the first");
    Require(s.top_k == 0 || rank < static_cast<size_t>(s.top_k), "top-k keeps the k largest");
  }
  return 0;
}
