// The trainer's fast layers against the same mathematics written with torch operations and its automatic
// gradient.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "engine/train/layers.h"
#include "engine/train/slow_route.h"

namespace omni::train {
namespace {

using torch::Tensor;

Param MakeParam(std::vector<int64_t> shape, Coding coding, double std_dev) {
  Param p;
  p.w = torch::randn(shape) * std_dev;
  p.grad = torch::zeros_like(p.w);
  p.coding = coding;
  if (coding != Coding::kNone) p.Quantize();
  return p;
}

// Gradients pass through bf16, so they agree to a few times 2^-9 of their own size.
void ExpectClose(const Tensor& got, const Tensor& want, double tolerance) {
  ASSERT_EQ(got.sizes(), want.sizes());
  const double error = (got - want).norm().item<double>(), size = want.norm().item<double>();
  EXPECT_GT(size, 0);
  EXPECT_LT(error, tolerance * size);
}

Tensor StraightThrough(const Tensor& x, const Tensor& value) { return x + (value - x).detach(); }

Tensor FakeInt8(const Tensor& x) {
  const Tensor s = std::get<0>(x.abs().max(1, true)) / 127.0;
  return StraightThrough(x, torch::round(x / s) * s);
}

Tensor FakeTernary(const Tensor& w) {  // rows along dim -1
  const Tensor m = w.abs().mean(-1, true);
  return StraightThrough(w, ((w > 0.5 * m).to(torch::kFloat32) - (w < -0.5 * m).to(torch::kFloat32)) * m);
}

Tensor FakeTwoBit(const Tensor& w) {
  const Tensor s = w.pow(2).mean(-1, true).sqrt();
  const Tensor level =
      torch::where(w < -s, torch::full_like(w, -3.0f),
                   torch::where(w < 0, torch::full_like(w, -1.0f),
                                torch::where(w < s, torch::ones_like(w), torch::full_like(w, 3.0f))));
  return StraightThrough(w, level * s * 0.5);
}

class TrainLayers : public ::testing::Test {
 protected:
  void SetUp() override { torch::manual_seed(7); }
};

TEST_F(TrainLayers, RmsNormMatchesAutograd) {
  Tensor x = torch::randn({37, 96}).requires_grad_(), gain = torch::rand({96}) + 0.5,
         dy = torch::randn({37, 96});
  Param p;
  p.w = gain.clone();
  p.grad = torch::zeros_like(gain);
  RmsNorm(x, p).backward(dy);
  Tensor x2 = x.detach().clone().requires_grad_(), g2 = gain.clone().requires_grad_();
  const Tensor h = x2 * torch::rsqrt(x2.pow(2).mean(1, true) + 1e-6) * g2;
  h.backward(dy);
  ExpectClose(x.grad(), x2.grad(), 1e-5);
  ExpectClose(p.grad, g2.grad(), 1e-5);
}

TEST_F(TrainLayers, QuantLinearMatchesStraightThroughReference) {
  for (const int64_t out : {33, 70, 5}) {
    Param p = MakeParam({1, out, 64}, Coding::kTwoBit, 0.1);
    Tensor x = torch::randn({50, 64}).requires_grad_(), dy = torch::randn({50, out});
    const Tensor y = QuantLinear(x, p);
    y.backward(dy);
    Tensor x2 = x.detach().clone().requires_grad_(), w2 = p.w.clone().requires_grad_();
    const Tensor y2 = torch::mm(FakeInt8(x2), FakeTwoBit(w2[0]).t());
    y2.backward(dy);
    ExpectClose(y.detach(), y2.detach(), 1e-5);
    ExpectClose(x.grad(), x2.grad(), 1e-2);
    ExpectClose(p.grad, w2.grad(), 1e-2);
  }
}

// The recurrence stepped token by token, as the law states it.
Tensor PdrReference(const Tensor& z, const Tensor& bias, int64_t batch, int64_t d, int64_t r, float floor,
                    const Tensor& start) {
  const int64_t tokens = z.size(0) / batch;
  std::vector<Tensor> outs;
  for (int64_t b = 0; b < batch; ++b) {
    Tensor state = start[b].t();  // [d, r]
    for (int64_t t = 0; t < tokens; ++t) {
      const Tensor row = z[b * tokens + t];
      const Tensor gamma = torch::exp(torch::log_sigmoid(row.narrow(0, 0, d) + bias).clamp_min(floor));
      const Tensor v = row.narrow(0, d, d), k = row.narrow(0, 2 * d, r) / std::sqrt(static_cast<double>(r));
      state = gamma.unsqueeze(1) * state + torch::outer(v, k);
      outs.push_back(torch::mv(state, row.narrow(0, 2 * d + r, r)));
    }
  }
  return torch::stack(outs);
}

TEST_F(TrainLayers, ChunkedRecurrenceMatchesTheStepFormAndItsGradient) {
  for (const int64_t tokens : {16, 40, 7}) {
    const int64_t batch = 2, d = 32, r = 12;
    Param bias;
    bias.w = torch::randn({d}) * 2;
    bias.grad = torch::zeros({d});
    Tensor z = torch::randn({batch * tokens, 2 * d + 2 * r});
    z.narrow(1, 0, d).mul_(2.0);
    z.requires_grad_();
    const Tensor start = torch::randn({batch, r, d});
    Tensor state = start.clone();
    const Tensor dout = torch::randn({batch * tokens, d});
    const Tensor out = Pdr(z, bias, batch, d, r, true, -5.0f, state);
    out.backward(dout);
    Tensor z2 = z.detach().clone().requires_grad_(), b2 = bias.w.clone().requires_grad_();
    const Tensor want = PdrReference(z2, b2, batch, d, r, -5.0f, start);
    want.backward(dout);
    const double rms = want.pow(2).mean().sqrt().item<double>();
    EXPECT_LT((out - want).abs().max().item<double>(), 1e-4 * rms);
    ExpectClose(z.grad(), z2.grad(), 1e-4);
    ExpectClose(bias.grad, b2.grad(), 1e-4);
  }
}

TEST_F(TrainLayers, ChunksContinueFromTheCarriedState) {
  const int64_t d = 16, r = 4;
  Param bias;
  bias.w = torch::zeros({d});
  bias.grad = torch::zeros({d});
  const Tensor z = torch::randn({64, 2 * d + 2 * r});
  Tensor whole = torch::zeros({1, r, d}), parts = torch::zeros({1, r, d});
  const Tensor all = Pdr(z, bias, 1, d, r, true, -5.0f, whole);
  const Tensor first = Pdr(z.narrow(0, 0, 32).contiguous(), bias, 1, d, r, true, -5.0f, parts);
  const Tensor second = Pdr(z.narrow(0, 32, 32).contiguous(), bias, 1, d, r, true, -5.0f, parts);
  EXPECT_TRUE(torch::equal(all, torch::cat({first, second})));
  EXPECT_TRUE(torch::equal(whole, parts));
}

TEST_F(TrainLayers, SwigluMatchesAutograd) {
  Tensor z = torch::randn({9, 80}).requires_grad_(), dy = torch::randn({9, 40});
  Swiglu(z).backward(dy);
  Tensor z2 = z.detach().clone().requires_grad_();
  (z2.narrow(1, 40, 40) * torch::silu(z2.narrow(1, 0, 40))).backward(dy);
  ExpectClose(z.grad(), z2.grad(), 1e-5);
}

TEST_F(TrainLayers, HeadLossMatchesCrossEntropyAndSkipsNegativeTargets) {
  Param e = MakeParam({1, 77, 64}, Coding::kInt8, 0.3);
  Tensor y = torch::randn({40, 64}).requires_grad_();
  Tensor targets = torch::randint(0, 77, {40}, torch::kInt32);
  targets[3] = -1;
  const Tensor loss = HeadLoss(y, e, targets);
  loss.backward();
  Tensor y2 = y.detach().clone().requires_grad_(), w2 = e.w.clone().requires_grad_();
  const Tensor logits = torch::mm(FakeInt8(y2), FakeInt8(w2[0]).t());
  const Tensor want = torch::nn::functional::cross_entropy(
      logits, targets.to(torch::kInt64), torch::nn::functional::CrossEntropyFuncOptions().ignore_index(-1));
  want.backward();
  EXPECT_NEAR(loss.item<double>(), want.item<double>(), 1e-5);
  ExpectClose(y.grad(), y2.grad(), 1e-2);
  ExpectClose(e.grad, w2.grad(), 1e-2);
}

TEST_F(TrainLayers, HeadLossWithSoftTargetsIsTheCrossEntropyWithTheMixedDistribution) {
  const int64_t vocab = 83, d = 32, n = 70, top = 4;
  Param e = MakeParam({1, vocab, d}, Coding::kInt8, 0.2);
  Tensor y = torch::randn({n, d}).requires_grad_();
  Tensor targets = torch::randint(0, vocab, {n}, torch::kInt32);
  targets[5] = -1;
  const Tensor ids = std::get<1>(torch::rand({n, vocab}).topk(top, 1));
  const Tensor weights = torch::softmax(torch::randn({n, top + 1}), 1).narrow(1, 0, top).contiguous();
  const Tensor loss = HeadLoss(y, e, targets, {ids.to(torch::kInt32), weights, 0.3f});
  loss.backward();

  Tensor y2 = y.detach().clone().requires_grad_(), e2 = e.w.clone().requires_grad_();
  const Tensor logits = torch::mm(FakeInt8(y2), FakeInt8(e2[0]).t());
  const Tensor target = targets.clamp_min(0).to(torch::kInt64);
  const Tensor soft = torch::zeros({n, vocab}).scatter(1, ids, weights);
  const Tensor hard = torch::one_hot(target, vocab).to(torch::kFloat32);
  const Tensor rest = (1 - weights.sum(1, true)) * hard;
  const Tensor wanted = hard * 0.7 + (soft + rest) * 0.3;
  const Tensor counted = (targets >= 0).to(torch::kFloat32);
  const Tensor want = -((torch::log_softmax(logits, 1) * wanted).sum(1) * counted).sum() / counted.sum();
  want.backward();
  EXPECT_NEAR(loss.item<double>(), want.item<double>(), 1e-4);
  ExpectClose(y.grad(), y2.grad(), 1e-2);
  ExpectClose(e.grad, e2.grad(), 1e-2);
}

// The router's law by plain operations, which automatic differentiation goes through.
Tensor ShortestWay(const Tensor& x) { return x - x.detach().round(); }
Tensor PointsOnTorus(const Tensor& h, const Tensor& w) {
  const Tensor raw = torch::mm(h, w[0].t());
  return raw - raw.detach().floor();
}
Tensor SquaredDistances(const Tensor& z, const Tensor& positions) {
  return ShortestWay(z.unsqueeze(1) - positions.unsqueeze(0)).pow(2).sum(2);
}

TEST_F(TrainLayers, RouterGradientMatchesAutogradOfTheSoftmaxOnTheTorus) {
  const int64_t experts = 20, d = 32, n = 30;
  const Tensor positions = torch::rand({experts, 3});
  Param w = MakeParam({1, 3, d}, Coding::kNone, 0.3);
  Tensor h = torch::randn({n, d}).requires_grad_();
  const RouterResult result =
      Route(h, w, positions, {.temperature = 0.02f, .balance = 0.01f, .smoothness = 0.1f, .tokens = 10});
  const Tensor dprob = torch::randn({n});
  result.prob.backward(dprob);

  Tensor h2 = h.detach().clone().requires_grad_(), w2 = w.w.clone().requires_grad_();
  const Tensor z = PointsOnTorus(h2, w2), dist = SquaredDistances(z, positions);
  const Tensor p = torch::softmax(-dist / 0.02, 1);
  const Tensor route = std::get<1>(dist.min(1));
  const Tensor share = torch::zeros({experts}).index_add_(0, route, torch::full({n}, 1.0 / n));
  const Tensor balance = 0.01 * experts * (share * p.mean(0)).sum();
  Tensor smooth = torch::zeros({});
  for (int64_t i = 1; i < n; ++i) {
    if (i % 10 != 0) smooth = smooth + ShortestWay(z[i] - z[i - 1]).pow(2).sum();
  }
  smooth = 0.1 * smooth / static_cast<double>(n);
  const Tensor chosen = p.gather(1, route.unsqueeze(1)).squeeze(1);
  ((chosen * dprob).sum() + balance + smooth).backward();
  EXPECT_NEAR(result.balance, balance.item<double>(), 1e-6);
  EXPECT_NEAR(result.smoothness, smooth.item<double>(), 1e-6);
  for (int64_t i = 0; i < n; ++i)
    EXPECT_EQ((*result.route)[static_cast<size_t>(i)], route[i].item<int64_t>());
  ExpectClose(h.grad(), h2.grad(), 1e-4);
  ExpectClose(w.grad, w2.grad(), 1e-4);
}

TEST_F(TrainLayers, RouterGradientOfARegionIsThatOfTheSumOverItsExpertsAndBiasesAreNoPartOfIt) {
  const int64_t experts = 20, d = 32, n = 60;
  const Tensor positions = torch::rand({experts, 3}), bias = torch::randn({experts}) * 0.05;
  std::vector<int32_t> region_of;
  for (int32_t e = 0; e < experts; ++e) region_of.push_back(e / 2 % 3);
  Param w = MakeParam({1, 3, d}, Coding::kNone, 0.3);
  Tensor h = torch::randn({n, d}).requires_grad_();
  const RouterResult result =
      Route(h, w, positions,
            {.temperature = 0.02f, .balance = 0, .tokens = 10, .bias = bias, .region_of = &region_of});
  const Tensor dprob = torch::randn({n});
  result.prob.backward(dprob);

  Tensor h2 = h.detach().clone().requires_grad_(), w2 = w.w.clone().requires_grad_();
  const Tensor z = PointsOnTorus(h2, w2), dist = SquaredDistances(z, positions);
  const Tensor p = torch::softmax(-dist / 0.02, 1), route = std::get<1>((dist - bias).min(1));
  const Tensor regions = torch::tensor(region_of);
  const Tensor same = (regions.unsqueeze(0) == regions.index({route}).unsqueeze(1)).to(torch::kFloat32);
  const Tensor chosen = (p * same).sum(1);
  (chosen * dprob).sum().backward();
  EXPECT_GT((route != std::get<1>(dist.min(1))).sum().item<int64_t>(), 3);  // the bias matters
  for (int64_t i = 0; i < n; ++i)
    EXPECT_EQ((*result.route)[static_cast<size_t>(i)], route[i].item<int64_t>());
  ExpectClose(result.prob.detach(), chosen.detach(), 1e-4);
  ExpectClose(h.grad(), h2.grad(), 1e-4);
  ExpectClose(w.grad, w2.grad(), 1e-4);
}

TEST_F(TrainLayers, RouterGradientOfWhatWasNotTakenIsThatOfItsUsualOutput) {
  const int64_t experts = 20, d = 32, n = 60;
  const Tensor positions = torch::rand({experts, 3});
  std::vector<int32_t> region_of;
  for (int32_t e = 0; e < experts; ++e) region_of.push_back(e / 2 % 3);
  for (const bool regions : {false, true}) {
    Param w = MakeParam({1, 3, d}, Coding::kNone, 0.3);
    const Tensor h = torch::randn({n, d}), mean_outputs = torch::randn({regions ? 3 : experts, d}),
                 dy = torch::randn({n, d});
    Tensor y = torch::randn({n, d}).requires_grad_();
    const RouterResult result = Route(h.clone().requires_grad_(), w, positions,
                                      {.temperature = 0.02f,
                                       .balance = 0,
                                       .tokens = 10,
                                       .region_of = regions ? &region_of : nullptr,
                                       .untaken = true});
    std::vector<int32_t> taken = *result.route;
    for (int32_t& e : taken) e = regions ? region_of[static_cast<size_t>(e)] : e;
    const Tensor with = WithUntaken(y, result.untaken, mean_outputs, taken);
    EXPECT_TRUE(torch::equal(with, y));
    // A gradient on the one that was taken beside it, as the experts give it.
    ((with * dy).sum() + (result.prob * (y.detach() * dy).sum(1)).sum()).backward();
    EXPECT_TRUE(torch::equal(y.grad(), dy));

    Tensor w2 = w.w.clone().requires_grad_();
    Tensor p = torch::softmax(-SquaredDistances(PointsOnTorus(h, w2), positions) / 0.02, 1);
    if (regions) {
      std::vector<Tensor> sums;
      for (int32_t r = 0; r < 3; ++r)
        sums.push_back((p * (torch::tensor(region_of) == r).to(torch::kFloat32)).sum(1));
      p = torch::stack(sums, 1);
    }
    Tensor outputs = mean_outputs.unsqueeze(0).expand({n, -1, -1}).clone();  // of each row and choice
    for (int64_t i = 0; i < n; ++i) outputs[i][taken[static_cast<size_t>(i)]] = y.detach()[i];
    (p.unsqueeze(2) * outputs * dy.unsqueeze(1)).sum().backward();
    ExpectClose(w.grad, w2.grad(), 1e-4);
  }
}

TEST_F(TrainLayers, MeanOutputsMoveTowardsWhatWasTakenAndRestOtherwise) {
  const Tensor y = torch::randn({5, 4}), before = torch::randn({3, 4});
  Tensor means = before.clone();
  UpdateMeanOutputs(y, {0, 2, 0, 0, 2}, means);
  EXPECT_TRUE(torch::equal(means[1], before[1]));
  EXPECT_TRUE(torch::allclose(means[0], before[0] * 0.95 + (y[0] + y[2] + y[3]) / 3 * 0.05, 1e-5, 1e-6));
  EXPECT_TRUE(torch::allclose(means[2], before[2] * 0.95 + (y[1] + y[4]) / 2 * 0.05, 1e-5, 1e-6));
}

TEST_F(TrainLayers, SlowRowsAreTheStateBeforeEachTokenAndGoOnWhereTheyWereCut) {
  const int64_t batch = 2, tokens = 48, d = 37;
  const Tensor h = torch::randn({batch * tokens, d}), start = torch::randn({batch, d});
  for (const float rate : {1.0f, 0.0625f, 0.3f}) {
    Tensor u = start.clone();
    const Tensor got = SlowRows(h, rate, batch, u);
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t j = 0; j < d; ++j) {
        float want = start[b][j].item<float>();
        for (int64_t t = 0; t < tokens; ++t) {
          ASSERT_EQ(got[b * tokens + t][j].item<float>(), want);
          const float gap = h[b * tokens + t][j].item<float>() - want;
          want = std::fma(rate, gap, want);
        }
        EXPECT_EQ(u[b][j].item<float>(), want);
      }
    }
    Tensor parts = start.clone();
    const Tensor cut = h.view({batch, tokens, d});
    const auto piece = [&](int64_t first, int64_t count) {
      return SlowRows(cut.narrow(1, first, count).reshape({batch * count, d}), rate, batch, parts)
          .view({batch, count, d});
    };
    const Tensor first = piece(0, 16), second = piece(16, 32);
    EXPECT_TRUE(torch::equal(torch::cat({first, second}, 1).view_as(got), got));
    EXPECT_TRUE(torch::equal(parts, u));
  }
}

// Groups of experts' neurons with parameters of their own, and the experts' FFN as the law states it.
class TrainExperts : public TrainLayers {
 protected:
  static constexpr int64_t kWidth = 32, kRows = 300;

  // copy_of: per expert.
  void AddGroup(int64_t copies, int64_t neurons, const std::vector<int32_t>& copy_of) {
    params_.push_back(
        std::make_unique<Param>(MakeParam({copies, 2 * neurons, kWidth}, Coding::kTernary, 0.2)));
    params_.push_back(std::make_unique<Param>(MakeParam({copies, neurons, kWidth}, Coding::kTernary, 0.2)));
    experts_.groups.push_back({params_[params_.size() - 2].get(), params_.back().get(), copy_of});
  }

  void ExpectTheReferencePerToken(const std::vector<int32_t>& route) {
    Tensor h = torch::randn({kRows, kWidth}).requires_grad_(), prob = torch::rand({kRows}).requires_grad_(),
           dy = torch::randn({kRows, kWidth});
    const Tensor y = Experts(h, prob, experts_, std::make_shared<std::vector<int32_t>>(route));
    y.backward(dy);
    Tensor h2 = h.detach().clone().requires_grad_(), prob2 = prob.detach().clone().requires_grad_();
    std::vector<Tensor> leaf;
    for (const auto& p : params_) leaf.push_back(p->w.clone().requires_grad_());
    const Tensor x = FakeInt8(h2);
    std::vector<Tensor> rows;
    for (int64_t i = 0; i < kRows; ++i) {
      std::vector<Tensor> gates, ups, downs;
      for (size_t g = 0; g < experts_.groups.size(); ++g) {
        const int64_t copy = experts_.groups[g].CopyOf(route[static_cast<size_t>(i)]),
                      neurons = experts_.groups[g].neurons();
        const Tensor gate_up = FakeTernary(leaf[2 * g][copy]);
        gates.push_back(torch::mv(gate_up.narrow(0, 0, neurons), x[i]));
        ups.push_back(torch::mv(gate_up.narrow(0, neurons, neurons), x[i]));
        downs.push_back(leaf[2 * g + 1][copy]);
      }
      const Tensor down_raw = torch::cat(downs), scale = down_raw.detach().abs().mean(1);
      const Tensor down = FakeTernary(down_raw);
      // The activation is quantised with down's scale in it; the weight keeps its own.
      const Tensor a = torch::silu(torch::cat(gates)) * torch::cat(ups);
      const Tensor quantised = FakeInt8((a * scale).unsqueeze(0))[0] / scale;
      rows.push_back(torch::mv(down.t(), quantised) * (1 + prob2[i] - prob2[i].detach()));
    }
    const Tensor want = torch::stack(rows);
    want.backward(dy);
    ExpectClose(y.detach(), want.detach(), 1e-4);
    ExpectClose(h.grad(), h2.grad(), 2e-2);
    ExpectClose(prob.grad(), prob2.grad(), 1e-4);
    for (size_t i = 0; i < params_.size(); i += 2) {
      Param &gate_up = *params_[i], &down = *params_[i + 1];
      const int64_t neurons = down.rows();
      const Tensor scale = down.scale.unsqueeze(2);
      gate_up.grad.narrow(1, neurons, neurons).mul_(scale);
      down.grad.div_(scale);
      const int64_t live = down.live_groups();  // the scales of others are not kept
      ExpectClose(gate_up.grad.narrow(0, 0, live), leaf[i].grad().narrow(0, 0, live), 2e-2);
      ExpectClose(down.grad.narrow(0, 0, live), leaf[i + 1].grad().narrow(0, 0, live), 2e-2);
    }
  }

  // Some expert of `experts` for every row; the last stays unused.
  static std::vector<int32_t> Some(int64_t experts) {
    std::vector<int32_t> route;
    for (int64_t i = 0; i < kRows; ++i)
      route.push_back(static_cast<int32_t>((i * i + i / 3) % (experts - 1)));
    return route;
  }

  std::vector<std::unique_ptr<Param>> params_;
  ExpertParams experts_;
};

TEST_F(TrainExperts, MatchAStraightThroughReferencePerToken) {
  experts_.region_of = {0, 1, 0, 1, 0, 1};
  AddGroup(2, 48, experts_.region_of);
  AddGroup(6, 16, {0, 1, 2, 3, 4, 5});
  ExpectTheReferencePerToken(Some(6));
}

TEST_F(TrainExperts, OfFourGroupsMatchAStraightThroughReferencePerToken) {
  experts_.region_of = {0, 0, 1, 1, 0, 0, 1, 1};  // members 0, 1, 0, 1, 2, 3, 2, 3
  AddGroup(1, 32, std::vector<int32_t>(8, 0));
  AddGroup(2, 16, experts_.region_of);
  AddGroup(4, 48, {0, 1, 0, 1, 2, 3, 2, 3});
  AddGroup(8, 16, {0, 1, 2, 3, 4, 5, 6, 7});
  ExpectTheReferencePerToken(Some(8));
}

TEST_F(TrainExperts, HaveTheFirstCopyOfAGroupThatHasNotParted) {
  experts_.region_of = {0, 0, 1, 1, 0, 0, 1, 1};
  AddGroup(2, 16, experts_.region_of);
  AddGroup(4, 48, {0, 1, 0, 1, 2, 3, 2, 3});
  for (size_t i : {2, 3}) params_[i]->parted = false;
  ExpectTheReferencePerToken(Some(8));
}

TEST_F(TrainExperts, GiveTheRouterNoGradientWhereItsChoiceMakesNoDifference) {
  experts_.region_of = {0, 1};
  AddGroup(2, 16, experts_.region_of);
  experts_.gated = false;
  Tensor prob = torch::rand({4}).requires_grad_();
  Experts(torch::randn({4, kWidth}).requires_grad_(), prob, experts_,
          std::make_shared<std::vector<int32_t>>(std::vector<int32_t>{0, 1, 1, 0}))
      .sum()
      .backward();
  EXPECT_EQ(prob.grad().abs().max().item<float>(), 0.0f);
}

TEST_F(TrainLayers, DropoutKeepsTheMeanAndUsesOneMaskForwardAndBack) {
  Tensor x = torch::zeros({64, 64}).requires_grad_(), o = torch::ones({64, 64}).requires_grad_();
  const Tensor y = DropoutAdd(x, o, 99, 0.25f);
  y.backward(torch::ones({64, 64}));
  EXPECT_TRUE(torch::equal(o.grad(), y.detach()));
  EXPECT_NEAR(y.mean().item<double>(), 1.0, 5 * std::sqrt(0.25 / 0.75 / 4096));
  EXPECT_FALSE(torch::equal(DropoutAdd(x, o, 100, 0.25f), y));
}

}  // namespace
}  // namespace omni::train
