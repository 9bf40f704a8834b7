#include "engine/around/adapter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include "engine/around/adapt_head.h"
#include "engine/around/adapt_learn.h"
#include "engine/around/adapt_texts.h"
#include "engine/decode/cpu_decoder.h"
#include "engine/decode/eval.h"
#include "tests/testing/unsure_model.h"

namespace omni {
namespace {

using ::testing::HasSubstr;
using testing::RandomModel;
using testing::RandomTokens;
using testing::RepeatingText;
using testing::SingleBytes;
using testing::UnsureModel;

constexpr AdapterParts kAll = {true, true, 8, AdaptLayers::kCores, true};

void Fill(Adapter& adapter, float size, uint64_t seed) {
  testing::Random random(seed);
  for (const AdapterBlock block : kAdapterBlocks) {
    for (float& value : adapter.values(block)) value = random.Uniform(-size, size);
  }
}

// Logits of all tokens, in passes of `batch`.
std::vector<float> LogitsOf(RandomModel& model, const RowAdapter* adapter, RoutePolicy* policy, size_t batch,
                            const kernels::Ops& ops = kernels::ActiveOps(), int threads = 2) {
  WorkerPool pool(threads);
  CpuDecoder decoder(model.weights(), pool, ops);
  SessionState state(model.config());
  const std::vector<TokenId> tokens = RandomTokens(40, model.config().vocab, 2);
  std::vector<float> all;
  for (size_t begin = 0; begin < tokens.size(); begin += batch) {
    std::vector<BatchRow> rows;
    for (size_t i = begin; i < std::min(tokens.size(), begin + batch); ++i)
      rows.push_back({&state, tokens[i], true, policy, false, false, adapter});
    const absl::StatusOr<std::span<const float>> logits =
        RunBatch(decoder, model.config(), model, pool, rows);
    EXPECT_TRUE(logits.ok()) << logits.status();
    all.insert(all.end(), logits->begin(), logits->end());
  }
  return all;
}

class AdapterOfModel : public ::testing::TestWithParam<ModelConfig> {};

TEST_P(AdapterOfModel, ZeroChangesNothing) {
  RandomModel model(GetParam(), 3);
  const ReadyAdapter zero(GetParam(), Adapter(GetParam(), kAll, ""));
  EXPECT_EQ(LogitsOf(model, nullptr, nullptr, 40), LogitsOf(model, &zero.rows(), zero.policy(), 40));
}

TEST_P(AdapterOfModel, EveryBlockChangesTheLogits) {
  RandomModel model(GetParam(), 3);
  const std::vector<float> plain = LogitsOf(model, nullptr, nullptr, 40);
  for (const AdaptLayers layers : {AdaptLayers::kCores, AdaptLayers::kLora}) {
    AdapterParts parts = kAll;
    parts.layers = layers;
    Adapter adapter(GetParam(), parts, "");
    for (const AdapterBlock block : kAdapterBlocks) {
      if (adapter.values(block).empty() || block == AdapterBlock::kRight) continue;
      Adapter one(GetParam(), parts, "");
      testing::Random random(5);
      for (float& value : one.values(block)) value = random.Uniform(-0.4f, 0.4f);
      const ReadyAdapter ready(GetParam(), std::move(one));
      EXPECT_NE(plain, LogitsOf(model, &ready.rows(), ready.policy(), 40)) << AdapterBlockName(block);
    }
  }
}

// As without an adapter: neither the batch nor threads nor the instruction set can be told from the bytes.
TEST_P(AdapterOfModel, BytesAreTheSameHoweverTheyAreComputed) {
  RandomModel model(GetParam(), 3);
  Adapter adapter(GetParam(), kAll, "");
  Fill(adapter, 0.2f, 8);
  const ReadyAdapter ready(GetParam(), std::move(adapter));
  const std::vector<float> want = LogitsOf(model, &ready.rows(), ready.policy(), 40);
  EXPECT_EQ(want, LogitsOf(model, &ready.rows(), ready.policy(), 1));
  EXPECT_EQ(want, LogitsOf(model, &ready.rows(), ready.policy(), 7, kernels::ActiveOps(), 1));
  for (const kernels::Isa isa : kernels::kAllIsas) {
    const kernels::Ops* ops = kernels::OpsFor(isa);
    if (ops == nullptr) continue;
    EXPECT_EQ(want, LogitsOf(model, &ready.rows(), ready.policy(), 40, *ops)) << kernels::IsaName(isa);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, AdapterOfModel,
                         ::testing::Values(testing::TinyConfig(), testing::OddConfig(),
                                           testing::FlaglessConfig(), testing::AddressConfig()));

Adapter Filled() {
  Adapter adapter(testing::OddConfig(), kAll, "0123456789abcdef0123456789abcdef");
  Fill(adapter, 1.0f, 6);
  adapter.origin() = {1000, 100, 3.5f, 3.25f, 0.01f};
  return adapter;
}

TEST(AdapterFile, WhatIsWrittenIsRead) {
  for (const AdaptLayers layers : {AdaptLayers::kNone, AdaptLayers::kCores, AdaptLayers::kLora}) {
    Adapter adapter(testing::OddConfig(), {true, false, 5, layers, false}, "abcd");
    Fill(adapter, 1.0f, 6);
    const absl::StatusOr<Adapter> read = Adapter::Read(adapter.Write());
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->parts(), adapter.parts());
    EXPECT_EQ(read->model_hash(), "abcd");
    EXPECT_EQ(read->Write(), adapter.Write());
  }
  const absl::StatusOr<Adapter> read = Adapter::Read(Filled().Write());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->origin(), Filled().origin());
  EXPECT_TRUE(read->Fits(testing::OddConfig(), Filled().model_hash()).ok());
  EXPECT_THAT(read->Fits(testing::OddConfig(), "another").message(), HasSubstr("another"));
  EXPECT_FALSE(read->Fits(testing::TinyConfig(), Filled().model_hash()).ok());
}

TEST(AdapterFile, HashesWhatItChangesAndNothingElse) {
  Adapter adapter = Filled();
  const std::string hash = adapter.Hash();
  EXPECT_EQ(hash.size(), 32u);
  adapter.origin() = {};
  EXPECT_EQ(adapter.Hash(), hash);
  EXPECT_EQ(Adapter::Read(adapter.Write())->Hash(), hash);
  EXPECT_EQ(ReadyAdapter(testing::OddConfig(), adapter).hash(), hash);
  for (const AdapterBlock block : kAdapterBlocks) {
    if (adapter.values(block).empty()) continue;
    float& last = adapter.values(block).back();
    const float was = std::exchange(last, last + 0.5f);
    EXPECT_NE(adapter.Hash(), hash) << AdapterBlockName(block);
    last = was;
  }
  EXPECT_EQ(adapter.Hash(), hash);
  Adapter other(testing::OddConfig(), kAll, "another model");
  other.CopyValues(adapter);
  EXPECT_NE(other.Hash(), hash);
}

TEST(AdapterFile, RefusesCutAlteredAndForeignBytes) {
  const std::string bytes = Filled().Write();
  for (size_t size = 0; size < bytes.size(); size += size < 200 ? 1 : 97)
    EXPECT_FALSE(Adapter::Read(std::string_view(bytes).substr(0, size)).ok()) << size;
  for (size_t at = 0; at < bytes.size(); at += at < 200 ? 1 : 89) {
    std::string altered = bytes;
    altered[at] = static_cast<char>(altered[at] ^ 4);
    EXPECT_FALSE(Adapter::Read(altered).ok()) << at;
  }
  EXPECT_FALSE(Adapter::Read(bytes + "x").ok());
}

// With a checksum that is right: what the header says is not believed.
TEST(AdapterFile, RefusesShapesThatAreNotThere) {
  const auto with = [](size_t at, auto value) {
    std::string bytes = Filled().Write();
    bytes.resize(bytes.size() - 8);
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size());
    bytes.append(reinterpret_cast<const char*>(&checksum), 8);
    return Adapter::Read(bytes).status();
  };
  EXPECT_THAT(with(8, uint32_t{2}).message(), HasSubstr("version 2"));
  for (size_t at = 12; at < 52; at += 4) {
    EXPECT_FALSE(with(at, uint32_t{0xffffffff}).ok()) << at;
    EXPECT_FALSE(with(at, uint32_t{60000}).ok()) << at;
  }
  EXPECT_THAT(with(112, std::nanf("")).message(), HasSubstr("finite"));
}

// The loss of hidden states in double, with the errors of rounding held at what they were at `base`.
class SmoothHead {
 public:
  SmoothHead(const RandomModel& model, std::span<const float> y, const Adapter& base)
      : model_(model), d_(static_cast<size_t>(model.config().d)), y_(y) {
    for (size_t row = 0; row < y.size() / d_; ++row) {
      std::vector<double> z = Changed(base, row);
      double largest = 0;
      for (double v : z) largest = std::max(largest, std::fabs(v));
      for (double& v : z) v = std::nearbyint(v / (largest / 127)) * (largest / 127) - v;
      errors_.push_back(std::move(z));
    }
  }

  std::vector<double> LogProbabilities(const Adapter& at, size_t row) const {
    std::vector<double> z = Changed(at, row), logits;
    for (size_t i = 0; i < d_; ++i) z[i] += errors_[row][i];
    double sum = 0;
    for (int64_t v = 0; v < model_.config().vocab; ++v) {
      const std::span<const float> bias = at.values(AdapterBlock::kBias);
      double logit = bias.empty() ? 0 : bias[static_cast<size_t>(v)];
      for (size_t i = 0; i < d_; ++i) {
        logit += z[i] * model_.embedding(v, static_cast<int64_t>(i)) *
                 static_cast<double>(model_.weights().embedding_scale[v]);
      }
      logits.push_back(logit);
      sum += std::exp(logit);
    }
    for (double& logit : logits) logit -= std::log(sum);
    return logits;
  }

 private:
  std::vector<double> Changed(const Adapter& at, size_t row) const {
    const HeadChange head = at.View().head;
    const float* y = y_.data() + row * d_;
    std::vector<double> z(y, y + d_), inner(static_cast<size_t>(head.rank));
    for (size_t k = 0; k < inner.size(); ++k) {
      for (size_t i = 0; i < d_; ++i) inner[k] += static_cast<double>(head.basis[k * d_ + i]) * y[i];
    }
    for (size_t i = 0; i < d_; ++i) {
      if (head.gain != nullptr) z[i] *= 1.0 + head.gain[i];
      for (size_t k = 0; k < inner.size(); ++k) z[i] += head.map[i * inner.size() + k] * inner[k];
    }
    return z;
  }

  const RandomModel& model_;
  const size_t d_;
  const std::span<const float> y_;
  std::vector<std::vector<double>> errors_;
};

// The gradient of the head in closed form, against central differences.
TEST(HeadLoss, GradientMatchesDifferences) {
  const ModelConfig c = testing::OddConfig();
  RandomModel model(c, 2);
  WorkerPool pool(2);
  HeadLoss loss(model.weights(), pool);
  const AdapterParts parts = {true, true, 8, AdaptLayers::kNone, false};
  Adapter at(c, parts, ""), gradient(c, parts, "");
  const Adapter none(c, {false, false, 0, AdaptLayers::kNone, false}, "");
  Fill(at, 0.1f, 3);
  testing::Random random(4);
  std::vector<float> y(static_cast<size_t>(3 * c.d)), plain(y.size());
  for (float& v : y) v = 0.2f * random.Normal();
  for (size_t i = 0; i < y.size(); ++i) plain[i] = y[i] + 0.02f * random.Normal();
  const std::vector<TokenId> targets = RandomTokens(3, c.vocab, 9);
  const SmoothHead smooth(model, y, at), smooth_plain(model, plain, none);
  for (const bool divergence : {false, true}) {
    const auto want = [&](const Adapter& adapter) {
      double nats = 0;
      for (size_t row = 0; row < targets.size(); ++row) {
        const std::vector<double> q = smooth.LogProbabilities(adapter, row);
        if (!divergence) {
          nats -= q[targets[row].index()];
          continue;
        }
        const std::vector<double> p = smooth_plain.LogProbabilities(none, row);
        for (size_t v = 0; v < p.size(); ++v) nats += std::exp(p[v]) * (p[v] - q[v]);
      }
      return nats;
    };
    const double got = divergence ? loss.Divergence(at, y, plain) : loss.Loss(at, y, targets);
    EXPECT_NEAR(got, want(at), 1e-4 * std::max(1.0, want(at)));
    for (const AdapterBlock block : kAdapterBlocks) gradient.Clear(block);
    loss.AddGradient(at, y, 1.0f, gradient);
    for (const AdapterBlock block : {AdapterBlock::kBias, AdapterBlock::kGain, AdapterBlock::kMap}) {
      double error = 0, size = 0;
      for (size_t i = 0; i < gradient.values(block).size(); i += block == AdapterBlock::kMap ? 41 : 13) {
        constexpr float kStep = 1e-3f;
        Adapter up = at, down = at;
        up.values(block)[i] += kStep;
        down.values(block)[i] -= kStep;
        const double apart = static_cast<double>(up.values(block)[i]) - down.values(block)[i];
        const double slope = (want(up) - want(down)) / apart;
        error += std::pow(slope - static_cast<double>(gradient.values(block)[i]), 2);
        size += slope * slope;
      }
      EXPECT_GT(size, 0);
      EXPECT_LT(std::sqrt(error / size), 1e-3) << AdapterBlockName(block);
    }
  }
}

AdaptSettings Quick() {
  AdaptSettings settings;
  settings.own_tokens = 64;
  settings.passes = 2;
  settings.budget = std::chrono::hours(1);
  settings.most_drift = 10;  // a model of random weights says nothing that it could hold on to
  settings.directions = 2;
  return settings;
}

TEST(Learning, LowersTheHeldOutLossWithinItsMemory) {
  ModelConfig c = testing::AddressConfig();
  UnsureModel model(c, 3);
  WorkerPool pool(2);
  Adapter adapter(c, {true, true, 8, AdaptLayers::kCores, false}, "");
  const absl::StatusOr<AdaptReport> report = LearnAdapter(model.weights(), model.experts(), SingleBytes(),
                                                          pool, RepeatingText(600), Quick(), adapter);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->kept);
  EXPECT_LT(report->nats, 0.9 * report->nats_before);
  EXPECT_LE(report->extra_bytes, 3 * report->adapter_bytes);
  EXPECT_EQ(report->adapter_bytes, 4 * adapter.size());
  EXPECT_EQ(adapter.origin().tokens, report->tokens);
  ASSERT_FALSE(report->shares.empty());
  EXPECT_GT(report->shares[0].nats_without, report->nats);
  // What the report says is what the decoder does.
  const std::vector<TokenId> encoded = SingleBytes().Encode(RepeatingText(600));
  std::vector<TokenId> tokens = {Tokenizer::kEndOfText};
  tokens.insert(tokens.end(), encoded.begin(), encoded.end());
  AdaptTexts texts(model.weights(), model.experts(), pool, tokens, static_cast<size_t>(report->tokens));
  EXPECT_EQ(*texts.HeldOut(adapter), report->nats);
}

TEST(Learning, IsTheSameWithAnyNumberOfThreads) {
  const ModelConfig c = testing::OddConfig();
  UnsureModel model(c, 3);
  std::string bytes[2];
  for (int threads : {1, 3}) {
    WorkerPool pool(threads);
    Adapter adapter(c, {true, true, 8, AdaptLayers::kCores, true}, "");
    ASSERT_TRUE(LearnAdapter(model.weights(), model.experts(), SingleBytes(), pool, RepeatingText(400),
                             Quick(), adapter)
                    .ok());
    bytes[threads == 1] = adapter.Write();
  }
  EXPECT_EQ(bytes[0], bytes[1]);
}

TEST(Learning, WhatIsNotBetterIsRolledBackToTheByte) {
  const ModelConfig c = testing::OddConfig();
  UnsureModel model(c, 3);
  WorkerPool pool(2);
  Adapter adapter(c, {true, true, 8, AdaptLayers::kCores, false}, "abc");
  const absl::StatusOr<AdaptReport> first = LearnAdapter(model.weights(), model.experts(), SingleBytes(),
                                                         pool, RepeatingText(400), Quick(), adapter);
  ASSERT_TRUE(first.ok() && first->kept) << first.status();
  const std::string before = adapter.Write();
  AdaptSettings settings = Quick();
  settings.most_drift = 0;  // the model's own text may not become less likely than it is by now
  const absl::StatusOr<AdaptReport> report = LearnAdapter(model.weights(), model.experts(), SingleBytes(),
                                                          pool, RepeatingText(400), settings, adapter);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->phases[0].passes, 0);
  EXPECT_FALSE(report->kept);
  EXPECT_EQ(adapter.Write(), before);
}

TEST(Learning, WhatTheModelSaysItselfMayNotDrift) {
  const ModelConfig c = testing::OddConfig();
  UnsureModel model(c, 3);
  WorkerPool pool(2);
  Adapter adapter(c, kAll, "abc");
  const std::string before = adapter.Write();
  AdaptSettings settings = Quick();
  settings.most_drift = 0;
  const absl::StatusOr<AdaptReport> report = LearnAdapter(model.weights(), model.experts(), SingleBytes(),
                                                          pool, RepeatingText(400), settings, adapter);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GT(report->phases[0].passes, 0);
  EXPECT_FALSE(report->kept);
  EXPECT_EQ(adapter.Write(), before);
}

TEST(Learning, StopsWhenAskedAndWhenTimeIsOver) {
  const ModelConfig c = testing::OddConfig();
  UnsureModel model(c, 3);
  WorkerPool pool(2);
  Adapter adapter(c, kAll, "");
  const std::string before = adapter.Write();
  AdaptSettings settings = Quick();
  settings.progress = [](double) { return true; };
  absl::StatusOr<AdaptReport> report = LearnAdapter(model.weights(), model.experts(), SingleBytes(), pool,
                                                    RepeatingText(400), settings, adapter);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(adapter.Write(), before);
  settings = Quick();
  settings.budget = std::chrono::milliseconds(1);
  report = LearnAdapter(model.weights(), model.experts(), SingleBytes(), pool, RepeatingText(400), settings,
                        adapter);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->out_of_time);
  EXPECT_EQ(adapter.Write(), before);
}

TEST(Learning, TheLayersTakeTheirShareOfTheTimeAtMost) {
  const ModelConfig c = testing::OddConfig();
  UnsureModel model(c, 3);
  WorkerPool pool(1);
  AdaptSettings settings = Quick();
  settings.layers_share = 0;
  const auto phases = [&](const AdapterParts& parts) {
    Adapter adapter(c, parts, "");
    const absl::StatusOr<AdaptReport> report = LearnAdapter(model.weights(), model.experts(), SingleBytes(),
                                                            pool, RepeatingText(400), settings, adapter);
    EXPECT_TRUE(report.ok()) << report.status();
    EXPECT_FALSE(report->out_of_time);
    return report->phases;
  };
  auto both = phases({true, true, 8, AdaptLayers::kCores, false});
  ASSERT_EQ(both.size(), 2u);
  EXPECT_GT(both[0].passes, 0);
  EXPECT_EQ(both[1].passes, 0);
  // Where nothing else is learned all of it is theirs.
  const auto alone = phases({false, false, 0, AdaptLayers::kCores, false});
  ASSERT_EQ(alone.size(), 1u);
  EXPECT_GT(alone[0].passes, 0);
  settings.layers_share = 0.5;
  both = phases({true, true, 8, AdaptLayers::kCores, false});
  EXPECT_GT(both[1].passes, 0);
}

TEST(Learning, RefusesTextsThatAreTooShort) {
  const ModelConfig c = testing::OddConfig();
  UnsureModel model(c, 3);
  WorkerPool pool(1);
  Adapter adapter(c, kAll, "");
  EXPECT_THAT(LearnAdapter(model.weights(), model.experts(), SingleBytes(), pool, "short", Quick(), adapter)
                  .status()
                  .message(),
              HasSubstr("at least 256"));
}

}  // namespace
}  // namespace omni
