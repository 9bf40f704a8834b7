// The engine computes what the trainer trained: logits and routes of both on held-out tokens, through a
// packed model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <optional>
#include <utility>

#include "engine/decode/cpu_decoder.h"
#include "engine/train/data.h"
#include "engine/train/model.h"
#include "engine/train/trainer.h"
#include "store/model/model.h"
#include "store/pack/pack.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

constexpr int64_t kTokens = 2048;

// Sentences of a small grammar: enough structure that a few hundred steps leave the start far behind.
std::string Text(int64_t words, uint64_t seed) {
  static const char* const kSubject[] = {"the torus", "an expert", "every layer", "the old state",
                                         "a router"};
  static const char* const kVerb[] = {" turns", " decays", " holds", " forgets", " carries"};
  static const char* const kObject[] = {" the token", " its neighbour", " a tile", " nothing at all",
                                        " the key"};
  std::string text;
  uint64_t x = seed;
  const auto pick = [&x](const char* const* list) {
    x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    return list[(x >> 33) % 5];
  };
  for (int64_t i = 0; i < words; ++i) {
    text += pick(kSubject);
    text += pick(kVerb);
    text += pick(kObject);
    text += i % 7 == 6 ? ".\n" : ", ";
  }
  return text;
}

// A model trained for a while with routes of a kind, and packed.
struct Trained {
  explicit Trained(RouteFrom kind) {
    std::ofstream(dir / "text.txt") << Text(6000, 1);
    train::TrainSettings s;
    s.config = *Preset("tiny");
    s.config.route_from = kind;
    s.data = {dir / "text.txt"};
    s.out = dir / "run";
    s.steps = 150;
    s.batch = 8;
    s.tokens = 64;
    s.memory = 15;
    s.warmup = 20;
    s.balance = 0.05;
    if (kind != RouteFrom::kToken) {
      s.config.slow_rate = 0.25f;
      s.config.route_bias = true;
      s.config.lattice = {4, 4, 4};
      s.config.f = 256;
      s.config.base_neurons = s.config.member_neurons = s.config.own_neurons = 64;
      s.balance = 0;
    }
    status = train::Train(s);
    if (status.ok()) status = PackModel(dir / "run/checkpoint", dir / "model", {});
  }

  testing::TempDir dir;
  absl::Status status;
};

class TrainerAndEngine : public ::testing::TestWithParam<RouteFrom> {
 protected:
  static void TearDownTestSuite() { delete std::exchange(all_, nullptr); }

  void SetUp() override {
    if (all_ == nullptr) all_ = new std::map<RouteFrom, Trained>;
    const Trained& trained = all_->try_emplace(GetParam(), GetParam()).first->second;
    ASSERT_TRUE(trained.status.ok()) << trained.status;
    auto opened = OpenModel(trained.dir / "model");
    ASSERT_TRUE(opened.ok()) << opened.status();
    model_.emplace(*std::move(opened));
    const auto ids = train::EncodeCorpus(model_->tokenizer(), Text(4000, 99));
    ASSERT_GE(static_cast<int64_t>(ids.size()), kTokens);
    ids_.assign(ids.begin(), ids.begin() + kTokens);
    trained_ = std::make_unique<train::TrainModel>(config(), train::InitSettings{});
    ASSERT_TRUE(trained_->LoadWeights(trained.dir / "run/checkpoint/model.safetensors").ok());
    trained_->Quantize();
  }

  const ModelConfig& config() const { return model_->weights().config; }

  // The engine over all tokens, one block; routes by expert layer and token.
  std::vector<float> Engine(std::vector<std::vector<int32_t>>* routes) {
    WorkerPool pool(2);
    CpuDecoder decoder(model_->weights(), pool);
    SessionState state(config());
    std::vector<BatchRow> rows;
    for (int32_t id : ids_) rows.push_back({&state, TokenId(id), true});
    EXPECT_TRUE(decoder.Begin(rows).ok());
    for (int32_t l = 0; l < config().layers; ++l) {
      const std::vector<ExpertJob> jobs = decoder.RunLayer(LayerId(l)).value();
      for (const ExpertJob& job : jobs) {
        const auto tiles = model_->experts().Acquire(job.layer, job.expert);
        EXPECT_TRUE(tiles.ok());
        std::vector<float> out(job.rows.size() * static_cast<size_t>(config().d));
        EXPECT_TRUE(RunExpert(config(), *tiles, job, pool, out.data()).ok());
        decoder.AddExpertOutput(job, out.data());
      }
      if (config().IsAttention(l)) continue;
      routes->emplace_back();
      for (ExpertId e : decoder.routes()) routes->back().push_back(e.value);
    }
    const auto logits = decoder.Finish().value();
    return {logits.begin(), logits.end()};
  }

  std::vector<float> Trainer(std::vector<std::vector<int32_t>>* routes,
                             const std::vector<std::vector<int32_t>>* forced) {
    train::Carry carry = train::Carry::Make(config(), 1, config().window - 1);
    const torch::Tensor ids = torch::tensor(std::vector<int32_t>(ids_), torch::kInt32);
    const torch::Tensor logits = trained_->Logits(ids, 1, carry, routes, forced).contiguous();
    return {logits.data_ptr<float>(), logits.data_ptr<float>() + logits.numel()};
  }

  static std::map<RouteFrom, Trained>* all_;
  std::optional<Model> model_;
  std::unique_ptr<train::TrainModel> trained_;
  std::vector<int32_t> ids_;
};
std::map<RouteFrom, Trained>* TrainerAndEngine::all_ = nullptr;

INSTANTIATE_TEST_SUITE_P(Routes, TrainerAndEngine,
                         ::testing::Values(RouteFrom::kToken, RouteFrom::kAhead, RouteFrom::kAddress),
                         [](const auto& info) { return train::RouteFromName(info.param); });

TEST_P(TrainerAndEngine, LogitsAgreeWithinAThousandthOfTheirRangeWhenRoutesAreReplayed) {
  std::vector<std::vector<int32_t>> routes;
  const std::vector<float> engine = Engine(&routes), trainer = Trainer(nullptr, &routes);
  ASSERT_EQ(engine.size(), trainer.size());
  const auto vocab = static_cast<size_t>(config().vocab);
  int64_t close = 0;
  for (size_t t = 0; t < static_cast<size_t>(kTokens); ++t) {
    const auto [low, high] = std::minmax_element(trainer.begin() + static_cast<int64_t>(t * vocab),
                                                 trainer.begin() + static_cast<int64_t>((t + 1) * vocab));
    float worst = 0;
    for (size_t v = 0; v < vocab; ++v)
      worst = std::max(worst, std::fabs(engine[t * vocab + v] - trainer[t * vocab + v]));
    close += worst <= 1e-3f * (*high - *low);
  }
  RecordProperty("tokens_within", static_cast<int>(close));
  EXPECT_GE(static_cast<double>(close), 0.999 * static_cast<double>(kTokens));
}

TEST_P(TrainerAndEngine, RoutesAgreeWhenBothRunFreely) {
  std::vector<std::vector<int32_t>> engine, trainer;
  Engine(&engine);
  Trainer(&trainer, nullptr);
  ASSERT_EQ(engine.size(), trainer.size());
  int64_t same = 0, all = 0;
  for (size_t l = 0; l < engine.size(); ++l) {
    for (size_t t = 0; t < engine[l].size(); ++t, ++all) same += engine[l][t] == trainer[l][t];
  }
  EXPECT_EQ(all, 3 * kTokens);
  EXPECT_GE(static_cast<double>(same), 0.999 * static_cast<double>(all));
}

TEST_P(TrainerAndEngine, AgreeToTheBit) {
  std::vector<std::vector<int32_t>> engine_routes, trainer_routes;
  const std::vector<float> engine = Engine(&engine_routes), trainer = Trainer(&trainer_routes, nullptr);
  EXPECT_EQ(engine_routes, trainer_routes);
  int64_t differing = 0;
  ASSERT_EQ(engine.size(), trainer.size());
  for (size_t i = 0; i < engine.size(); ++i) differing += engine[i] != trainer[i];
  EXPECT_EQ(differing, 0);
}

}  // namespace
}  // namespace omni
