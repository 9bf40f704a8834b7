// The engine computes what the trainer trained: logits and routes of both on held-out tokens, through a
// packed model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>

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

class TrainerAndEngine : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new testing::TempDir;
    std::ofstream(*dir_ / "text.txt") << Text(6000, 1);
    train::TrainSettings s;
    s.config = *Preset("tiny");
    s.data = {*dir_ / "text.txt"};
    s.out = *dir_ / "run";
    s.steps = 150;
    s.batch = 8;
    s.tokens = 64;
    s.memory = 15;
    s.warmup = 20;
    s.balance = 0.05;
    ASSERT_TRUE(train::Train(s).ok());
    const absl::Status packed = PackModel(*dir_ / "run/checkpoint", *dir_ / "model", {});
    ASSERT_TRUE(packed.ok()) << packed;
  }
  static void TearDownTestSuite() { delete dir_; }

  void SetUp() override {
    auto opened = OpenModel(*dir_ / "model");
    ASSERT_TRUE(opened.ok()) << opened.status();
    model_.emplace(*std::move(opened));
    const auto ids = train::EncodeCorpus(model_->tokenizer(), Text(4000, 99));
    ASSERT_GE(static_cast<int64_t>(ids.size()), kTokens);
    ids_.assign(ids.begin(), ids.begin() + kTokens);
    trained_ = std::make_unique<train::TrainModel>(config(), train::InitSettings{});
    ASSERT_TRUE(trained_->LoadWeights(*dir_ / "run/checkpoint/model.safetensors").ok());
    trained_->Quantize(false);
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

  static testing::TempDir* dir_;
  std::optional<Model> model_;
  std::unique_ptr<train::TrainModel> trained_;
  std::vector<int32_t> ids_;
};
testing::TempDir* TrainerAndEngine::dir_ = nullptr;

TEST_F(TrainerAndEngine, LogitsAgreeWithinAThousandthOfTheirRangeWhenRoutesAreReplayed) {
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

TEST_F(TrainerAndEngine, RoutesAgreeWhenBothRunFreely) {
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

}  // namespace
}  // namespace omni
