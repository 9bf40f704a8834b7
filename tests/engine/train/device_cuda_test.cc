// The step on a CUDA device against the same source on this CPU. Skipped where there is no device.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>

#include "engine/train/device/device_step.h"

namespace omni::train {
namespace {

constexpr int64_t kBatch = 3, kTokens = 32, kMemory = 15;

struct Model {
  RouteFrom kind;
  int64_t d, r;
};

ModelConfig ConfigOf(const Model& m) {
  ModelConfig c = *Preset("tiny");
  c.vocab = 300;
  c.d = m.d;
  c.r = m.r;
  c.lattice = {4, 2, 2};
  c.route_from = m.kind;
  if (m.kind != RouteFrom::kToken) c.slow_rate = 0.25f;
  c.route_bias = true;
  c.f = 256;
  c.base_neurons = c.member_neurons = c.own_neurons = 64;
  return c;
}

double Difference(const std::vector<float>& ours, const std::vector<float>& theirs) {
  double apart = 0, whole = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    apart += std::pow(static_cast<double>(ours[i]) - static_cast<double>(theirs[i]), 2);
    whole += std::pow(static_cast<double>(theirs[i]), 2);
  }
  return std::sqrt(apart / std::max(whole, 1e-24));
}

class OnCuda : public ::testing::TestWithParam<Model> {
 protected:
  void SetUp() override {
    try {
      cuda_ = MakeCudaStep(config_, layout_, kBatch, kTokens, kMemory);
      std::printf("on %s\n", cuda_->Description().c_str());
    } catch (const std::exception& e) {
      GTEST_SKIP() << e.what();
    }
    host_ = MakeHostStep(config_, layout_, kBatch, kTokens, kMemory);
    std::vector<uint8_t> members(static_cast<size_t>(config_.vocab));
    for (size_t t = 0; t < members.size(); ++t)
      members[t] = static_cast<uint8_t>(t * 7 % static_cast<size_t>(config_.experts_per_region()));
    for (DeviceStep* step : {cuda_.get(), host_.get()}) {
      for (size_t p = 0; p < layout_.params.size(); ++p)
        step->SetParam(p, FirstWeights(config_, init_, layout_.params[p], p).data(), nullptr, nullptr);
      size_t experts = 0;
      for (const LayerLayout& layer : layout_.layers) {
        if (!layer.attention) step->SetMembers(experts++, members);
      }
      step->Quantize();
      state_ = step->NewState(kBatch);
    }
  }

  // A segment on both; the share of routes that differ.
  double Segment(uint64_t key) {
    std::vector<int32_t> inputs(static_cast<size_t>(kBatch * kTokens)), targets(inputs.size());
    for (size_t i = 0; i < inputs.size(); ++i) {
      inputs[i] = static_cast<int32_t>((key * 31 + i * i * 7) % 300);
      targets[i] = static_cast<int32_t>((key * 17 + i * 11) % 300);
    }
    const ExpertsTaken ours = cuda_->ForwardBackward(inputs, targets, state_, 0.01f),
                       theirs = host_->ForwardBackward(inputs, targets, state_, 0.01f);
    double different = 0, all = 0;
    for (size_t l = 0; l < ours.size(); ++l) {
      for (size_t i = 0; i < ours[l].size(); ++i, ++all) different += ours[l][i] != theirs[l][i];
    }
    return different / all;
  }

  const InitSettings init_ = {.gamma_max = 0.9f, .route_std = 1.0f};
  const ModelConfig config_ = ConfigOf(GetParam());
  const Layout layout_ = MakeLayout(config_, init_);
  std::unique_ptr<DeviceStep> cuda_, host_;
  size_t state_ = 0;
};

TEST_P(OnCuda, LossGradientsAndUpdatesAreThoseOfTheCpu) {
  EXPECT_LT(Segment(1), 0.02);
  EXPECT_NEAR(cuda_->TakeLoss(), host_->TakeLoss(), 0.1);
  for (size_t p = 0; p < layout_.params.size(); ++p)
    EXPECT_LT(Difference(cuda_->Gradient(p), host_->Gradient(p)), 0.05) << layout_.params[p].name;
  EXPECT_LT(Segment(2), 0.05);  // from carried state
  EXPECT_NEAR(cuda_->TakeLoss(), host_->TakeLoss(), 0.2);
  const OptimizerSettings settings = {
      .lr = 1e-3f, .router_lr = 0.1f, .router_clip = 1.0f, .matrices = MatrixRule::kMuon};
  cuda_->Update(0, settings);
  host_->Update(0, settings);
  EXPECT_NEAR(cuda_->GradientNorm(), host_->GradientNorm(), 0.05 * host_->GradientNorm());
  for (size_t p = 0; p < layout_.params.size(); ++p) {
    std::vector<float> ours(static_cast<size_t>(layout_.params[p].size())), theirs(ours.size());
    cuda_->GetParam(p, ours.data(), nullptr, nullptr);
    host_->GetParam(p, theirs.data(), nullptr, nullptr);
    EXPECT_LT(Difference(ours, theirs), 2e-3) << layout_.params[p].name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, OnCuda,
                         ::testing::Values(Model{RouteFrom::kToken, 64, 16}, Model{RouteFrom::kAhead, 64, 8},
                                           Model{RouteFrom::kAddress, 128, 32}));

}  // namespace
}  // namespace omni::train
