#include "engine/train/validation.h"

#include <algorithm>

#include "engine/train/corpus.h"
#include "engine/train/data.h"

namespace omni::train {
namespace {

using torch::Tensor;

// How often a token goes where the one before it in its sequence went.
class Steadiness {
 public:
  void Add(const ModelConfig& config, const Routes& routes, int64_t sequence) {
    for (const std::vector<int32_t>& route : routes) {
      for (size_t i = 1; i < route.size(); ++i) {
        if (static_cast<int64_t>(i) % sequence == 0) continue;
        ++tokens_;
        expert_ += route[i] == route[i - 1];
        region_ += config.RegionOf(ExpertId(route[i])) == config.RegionOf(ExpertId(route[i - 1]));
      }
    }
  }
  double expert() const { return Share(expert_); }
  double region() const { return Share(region_); }

 private:
  double Share(int64_t count) const {
    return static_cast<double>(count) / static_cast<double>(std::max<int64_t>(1, tokens_));
  }

  int64_t tokens_ = 0, expert_ = 0, region_ = 0;
};

Tensor Ids(int64_t n) { return torch::empty({n}, torch::kInt32); }

}  // namespace

Validation Validate(TrainModel& model, const std::vector<int32_t>& ids, const TrainSettings& s) {
  torch::NoGradGuard no_grad;
  const ValidationShape shape = ShapeOfValidation(static_cast<int64_t>(ids.size()), s);
  Streams streams({ids.begin(), ids.begin() + shape.tokens}, shape.batch);
  Carry carry = Carry::Make(model.config(), shape.batch, s.memory);
  Steadiness steadiness;
  double total = 0;
  for (int64_t i = 0; i < shape.segments; ++i) {
    Tensor inputs = Ids(shape.batch * s.tokens), targets = Ids(shape.batch * s.tokens);
    streams.Next(s.tokens, inputs.data_ptr<int32_t>(), targets.data_ptr<int32_t>());
    const ForwardResult result = model.Forward(inputs, targets, shape.batch, carry, {});
    total += result.loss.item<double>();
    steadiness.Add(model.config(), result.routes, s.tokens);
  }
  return {total / static_cast<double>(shape.segments), steadiness.expert(), steadiness.region()};
}

Tensor RouteSample(const std::vector<int32_t>& text, int64_t rows, const TrainSettings& s) {
  const auto tokens = std::min<int64_t>(s.tokens, 128), size = static_cast<int64_t>(text.size());
  Tensor sample = Ids(rows * tokens);
  auto* id = sample.data_ptr<int32_t>();
  for (int64_t i = 0; i < rows * tokens; ++i)
    id[i] = text[static_cast<size_t>((size / rows * (i / tokens) + i % tokens) % size)];
  return sample;
}

double ChangedShare(const Routes& before, const Routes& after) {
  int64_t changed = 0, all = 0;
  for (size_t l = 0; l < before.size(); ++l) {
    for (size_t i = 0; i < before[l].size(); ++i, ++all) changed += before[l][i] != after[l][i];
  }
  return static_cast<double>(changed) / static_cast<double>(std::max<int64_t>(1, all));
}

}  // namespace omni::train
