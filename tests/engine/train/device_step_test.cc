// The device's step, its source compiled for this CPU, against the trainer's own layers and optimiser.
#include "engine/train/device/device_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "engine/train/device/device_trainer.h"
#include "engine/train/model.h"
#include "engine/train/optimizer.h"
#include "tests/engine/train/run_fixture.h"

namespace omni::train {
namespace {

constexpr int64_t kBatch = 2, kTokens = 32, kMemory = 15;

ModelConfig Routed(RouteFrom kind) {
  ModelConfig c = *Preset("tiny");
  c.vocab = 300;
  c.lattice = {4, 2, 2};
  c.route_from = kind;
  if (kind != RouteFrom::kToken) c.slow_rate = 0.25f;
  c.route_bias = true;
  c.f = 256;
  c.base_neurons = c.member_neurons = c.own_neurons = 64;
  return c;
}

// The two side by side, from the same weights.
class Pair {
 public:
  explicit Pair(const ModelConfig& config)
      : config_(config),
        model_(config, {.gamma_max = 0.9f, .route_std = 1.0f}),
        layout_(MakeLayout(config, {})),
        step_(MakeHostStep(config, layout_, kBatch, kTokens, kMemory)),
        carry_(Carry::Make(config, kBatch, kMemory)),
        state_(step_->NewState(kBatch)) {
    for (Param* p : model_.params()) by_name_[p->name] = p;
    for (size_t i = 0; i < layout_.params.size(); ++i)
      step_->SetParam(i, Of(i).w.data_ptr<float>(), nullptr, nullptr);
    std::vector<uint8_t> members(static_cast<size_t>(config.vocab));
    for (size_t t = 0; t < members.size(); ++t)
      members[t] = static_cast<uint8_t>(t * 7 % static_cast<size_t>(config.experts_per_region()));
    model_.DealMembers([&](uint64_t) { return members; });
    size_t experts = 0;
    for (const LayerLayout& layer : layout_.layers) {
      if (!layer.attention) step_->SetMembers(experts++, members);
    }
    model_.Quantize();
    step_->Quantize();
  }

  Param& Of(size_t i) { return *by_name_.at(layout_.params[i].name); }

  // One segment; both losses, mean nats.
  std::pair<double, double> Segment(uint64_t key) {
    std::vector<int32_t> inputs(static_cast<size_t>(kBatch * kTokens)), targets(inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      inputs[i] = static_cast<int32_t>((key * 31 + i * i * 7) % 300);
      targets[i] = static_cast<int32_t>((key * 17 + i * 11) % 300);
    }
    model_.ZeroGradients();
    const auto tensor = [](std::vector<int32_t>& x) {
      return torch::from_blob(x.data(), {static_cast<int64_t>(x.size())}, torch::kInt32).clone();
    };
    const ForwardResult result =
        model_.Forward(tensor(inputs), tensor(targets), kBatch, carry_, {.balance = 0, .smoothness = 0.01f});
    result.loss.backward();
    model_.FinishGradients();
    const ExpertsTaken taken = step_->ForwardBackward(inputs, targets, state_, 0.01f);
    for (size_t l = 0; l < taken.size(); ++l) {
      for (size_t i = 0; i < taken[l].size(); ++i, ++routes_)
        different_ += taken[l][i] != result.routes[l][i];
    }
    return {result.loss.item<double>(), step_->TakeLoss() / static_cast<double>(inputs.size())};
  }

  // ||ours - theirs|| / ||theirs||, both flat.
  static double Difference(const std::vector<float>& ours, const torch::Tensor& theirs) {
    const torch::Tensor mine =
        torch::from_blob(const_cast<float*>(ours.data()), theirs.sizes(), torch::kFloat32).clone();
    return ((mine - theirs).norm() / theirs.norm().clamp_min(1e-12)).item<double>();
  }

  // Of all segments' routes, those that differ.
  double DifferentShare() const { return static_cast<double>(different_) / static_cast<double>(routes_); }

  ModelConfig config_;
  TrainModel model_;
  Layout layout_;
  std::unique_ptr<DeviceStep> step_;
  Carry carry_;
  size_t state_;
  std::map<std::string, Param*> by_name_;
  int64_t routes_ = 0, different_ = 0;
};

class DeviceStepOf : public ::testing::TestWithParam<RouteFrom> {};

// Float sums have another order, and a value near a threshold may come to its other side: a few routes and
// codes differ.
TEST_P(DeviceStepOf, LossAndCarriedStateAreThoseOfTheTrainer) {
  Pair pair(Routed(GetParam()));
  for (uint64_t key = 1; key <= 3; ++key) {
    const auto [theirs, ours] = pair.Segment(key);
    EXPECT_NEAR(ours, theirs, 1e-3 * theirs) << key;
  }
  EXPECT_LT(pair.DifferentShare(), 0.02);
}

TEST_P(DeviceStepOf, UpdatesAreThoseOfTheTrainer) {
  for (const MatrixRule rule : {MatrixRule::kMuon, MatrixRule::kAdamW}) {
    Pair pair(Routed(GetParam()));
    pair.Segment(1);
    const OptimizerSettings settings = {
        .lr = 1e-3f, .router_lr = 0.1f, .router_clip = 1.0f, .eps = 1e-3f, .matrices = rule};
    pair.step_->Update(0, settings);
    const double norm = OptimizerStep(pair.model_.params(), 0, settings);
    EXPECT_NEAR(pair.step_->GradientNorm(), norm, 1e-2 * norm);
    for (size_t i = 0; i < pair.layout_.params.size(); ++i) {
      std::vector<float> w(static_cast<size_t>(pair.layout_.params[i].size()));
      pair.step_->GetParam(i, w.data(), nullptr, nullptr);
      EXPECT_LT(Pair::Difference(w, pair.Of(i).w), 1e-3) << pair.layout_.params[i].name;
    }
  }
}

// Gradients before the update's scale of them: FinishGradients is part of Update, so AdamW's first moment
// tells them.
TEST_P(DeviceStepOf, GradientsAreThoseOfTheTrainer) {
  Pair pair(Routed(GetParam()));
  pair.Segment(1);
  pair.step_->Update(0, {.lr = 0, .clip = 0, .matrices = MatrixRule::kAdamW});
  for (size_t i = 0; i < pair.layout_.params.size(); ++i) {
    EXPECT_LT(Pair::Difference(pair.step_->Gradient(i), pair.Of(i).grad), 0.02)
        << pair.layout_.params[i].name;
  }
}

INSTANTIATE_TEST_SUITE_P(Routes, DeviceStepOf,
                         ::testing::Values(RouteFrom::kToken, RouteFrom::kAhead, RouteFrom::kAddress));

}  // namespace
}  // namespace omni::train
