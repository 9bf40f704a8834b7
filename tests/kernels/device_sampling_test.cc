// The device's draws against the sampler's, token by token.
#include <algorithm>
#include <limits>
#include <set>

#include "engine/base/splitmix.h"
#include "engine/text/sampler.h"
#include "tests/kernels/device_testing.h"

namespace omni::kernels::device {
namespace {

class DeviceSamplingTest : public DeviceTest {
 protected:
  Random random{17};

  // One row for each of the settings, all of the same logits.
  void Compare(const std::vector<float>& logits, const std::vector<TokenId>& history,
               const std::vector<SamplerSettings>& settings) {
    const auto vocab = static_cast<int64_t>(logits.size()), n = static_cast<int64_t>(settings.size());
    std::vector<int32_t> penalized, want;
    std::vector<std::pair<size_t, size_t>> of_row;
    for (size_t row = 0; row < settings.size(); ++row) {
      const SamplerSettings& s = settings[row];
      want.push_back(omni::Sample(logits, history, row, s).token.value);
      const size_t first = penalized.size();
      if (s.repetition_penalty != 1.0f) {
        const auto from =
            history.end() - std::min<int64_t>(s.repetition_window, static_cast<int64_t>(history.size()));
        std::set<int32_t> distinct;
        for (auto it = from; it != history.end(); ++it) distinct.insert(it->value);
        penalized.insert(penalized.end(), distinct.begin(), distinct.end());
      }
      of_row.push_back({first, penalized.size() - first});
    }
    const Array<int32_t> ids(penalized);
    std::vector<Draw> draws;
    std::vector<float> all;
    for (size_t row = 0; row < settings.size(); ++row) {
      const SamplerSettings& s = settings[row];
      Draw draw;
      draw.temperature = s.temperature;
      draw.top_p = s.top_p;
      draw.min_p = s.min_p;
      draw.penalty = s.repetition_penalty;
      draw.top_k = s.temperature > 0 ? s.top_k : 1;
      draw.penalized = ids.data() + of_row[row].first;
      draw.num_penalized = static_cast<int32_t>(of_row[row].second);
      draw.uniform = CounterUniform(s.seed, row);
      draws.push_back(draw);
      all.insert(all.end(), logits.begin(), logits.end());
    }
    const Array<float> device_logits(all), scratch(n * vocab);
    const Array<Draw> device_draws(draws);
    const Array<int32_t> tokens(n);
    Sample(device_logits.data(), vocab, vocab, static_cast<int>(n), device_draws.data(), scratch.data(),
           tokens.data(), nullptr);
    EXPECT_EQ(tokens.Get(), want);
  }

  static std::vector<SamplerSettings> Many() {
    std::vector<SamplerSettings> many;
    for (const float temperature : {0.0f, 0.3f, 1.0f, 5.0f}) {
      for (const int32_t top_k : {1, 5, 40, 1000, kMaxTopK}) {
        for (const float top_p : {1.0f, 0.9f, 0.05f}) {
          SamplerSettings s;
          s.temperature = temperature;
          s.top_k = top_k;
          s.top_p = top_p;
          s.min_p = top_k == 40 ? 0.1f : 0.0f;
          s.repetition_penalty = top_k == 5 ? 1.3f : 1.0f;
          s.seed = many.size();
          many.push_back(s);
        }
      }
    }
    return many;
  }
};

TEST_F(DeviceSamplingTest, DrawsWhatTheSamplerDraws) {
  std::vector<TokenId> history;
  for (int i = 0; i < 100; ++i) history.push_back(TokenId(random.Below(257)));
  for (const int64_t vocab : {257, 1024, 4096}) Compare(random.Floats(vocab, -6.0f, 6.0f), history, Many());
}

TEST_F(DeviceSamplingTest, EqualLogitsAndSuchAsAreNoNumbers) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> logits(300, 1.0f);
  Compare(logits, {}, Many());
  for (size_t i = 0; i < logits.size(); i += 3) logits[i] = std::numeric_limits<float>::quiet_NaN();
  for (size_t i = 1; i < logits.size(); i += 9) logits[i] = -kInfinity;
  logits[200] = kInfinity;
  logits[203] = -0.0f;
  logits[206] = 0.0f;
  Compare(logits, {TokenId(200), TokenId(1), TokenId(2)}, Many());
  Compare(std::vector<float>(300, -kInfinity), {}, Many());
}

}  // namespace
}  // namespace omni::kernels::device
