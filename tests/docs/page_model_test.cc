// From the pages alone to the product's bits: a reader written from docs/formats.md and the pages below it
// and a model written from docs/arithmetic.md give the logits, the routes, the tokens and the saved states
// that the product gives.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/decode/cpu_decoder.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/session_state.h"
#include "engine/text/prompt.h"
#include "store/model/model.h"
#include "store/pack/pack.h"
#include "tests/docs/page_checkpoint.h"
#include "tests/docs/page_files.h"
#include "tests/docs/page_model.h"
#include "tests/docs/page_tokenizer.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using testing::Checkpoint;
using testing::TempDir;

std::optional<Model> Open(const std::string& dir) {
  absl::StatusOr<Model> model = OpenModel(dir);
  EXPECT_TRUE(model.ok()) << model.status();
  if (!model.ok()) return std::nullopt;
  return *std::move(model);
}

// The product, with every variant of the kernels that this CPU has.
struct Variant {
  Variant(const ModelWeights& weights, WorkerPool& pool, const kernels::Ops& ops)
      : name(kernels::IsaName(ops.isa)), decoder(weights, pool, ops), state(weights.config) {}
  const char* name;
  CpuDecoder decoder;
  SessionState state;
};

// The product and the pages' model, fed one token at a time.
void ExpectSameBits(const Model& product, page::Model& pages, const std::vector<TokenId>& tokens) {
  const ModelConfig& config = product.weights().config;
  WorkerPool pool(1);
  std::vector<std::unique_ptr<Variant>> variants;
  for (kernels::Isa isa : kernels::kAllIsas) {
    const kernels::Ops* ops = kernels::OpsFor(isa);
    if (ops != nullptr) variants.push_back(std::make_unique<Variant>(product.weights(), pool, *ops));
  }
  for (size_t t = 0; t < tokens.size(); ++t) {
    const page::Model::Result want = pages.Consume(tokens[t].value);
    for (const std::unique_ptr<Variant>& v : variants) {
      const BatchRow row[] = {{&v->state, tokens[t], true}};
      const absl::StatusOr<std::span<const float>> logits =
          RunBatch(v->decoder, config, product.experts(), pool, row);
      ASSERT_TRUE(logits.ok()) << logits.status();
      ASSERT_EQ(want.logits.size(), logits->size());
      ASSERT_EQ(std::memcmp(want.logits.data(), logits->data(), 4 * logits->size()), 0)
          << v->name << " after token " << t;
      EXPECT_EQ(v->decoder.routes()[0].value, want.routes.back()) << v->name << " after token " << t;
    }
  }
  for (const std::unique_ptr<Variant>& v : variants) EXPECT_EQ(v->state.Save(), pages.SaveState()) << v->name;
}

std::vector<TokenId> Numbers(int64_t n, int64_t vocab) {
  std::vector<TokenId> tokens = {TokenId(256)};
  for (int64_t i = 1; i < n; ++i) tokens.emplace_back(static_cast<int32_t>(i * i * 37 % vocab));
  return tokens;
}

class PagesTest : public ::testing::Test {
 protected:
  std::string Pack(const Checkpoint& checkpoint, const PackOptions& options = {}) {
    const std::string dir = temp_ / ("model" + std::to_string(++models_));
    EXPECT_TRUE(testing::WriteCheckpoint(dir + ".checkpoint", checkpoint).ok());
    EXPECT_TRUE(PackModel(dir + ".checkpoint", dir, options).ok());
    return dir;
  }

  TempDir temp_;
  int models_ = 0;
};

TEST_F(PagesTest, GiveTheShippedModelsBits) {
  const std::optional<Model> product = Open(OMNI_SHIPPED_MODEL);
  ASSERT_TRUE(product.has_value());
  const page::ModelFiles files(OMNI_SHIPPED_MODEL);
  EXPECT_EQ(files.model_hash(), product->hash());
  EXPECT_GT(files.tile_counts().stored, 0);
  const std::string text = "The captain looked at the sea, and said nothing.\n\nIn 1841 he had";
  const std::vector<TokenId> tokens = PromptTokens(product->tokenizer(), text);
  const page::Tokenizer tokenizer(files.tokenizer());
  std::vector<int64_t> want = {256};
  for (int64_t id : tokenizer.Encode(text)) want.push_back(id);
  std::vector<int64_t> got;
  for (TokenId token : tokens) got.push_back(token.value);
  ASSERT_EQ(got, want);
  page::Model pages(files);
  ExpectSameBits(*product, pages, tokens);
}

TEST_F(PagesTest, GiveTheBitsOfAModelWhoseDeltasNameOtherTiles) {
  const Checkpoint checkpoint = testing::RandomCheckpoint(testing::SmallConfig(), 3);
  const std::string dir = Pack(checkpoint);
  const std::optional<Model> product = Open(dir);
  ASSERT_TRUE(product.has_value());
  const page::ModelFiles files(dir);
  EXPECT_GT(files.tile_counts().stored, 0);
  page::Model pages(files);
  ExpectSameBits(*product, pages, Numbers(40, checkpoint.config.vocab));  // the ring of 16 goes round
}

TEST_F(PagesTest, GiveTheBitsOfAModelWhoseExpertsAreNearlyEqual) {
  const Checkpoint checkpoint = testing::NearlyEqualExperts(testing::ShortConfig());
  const std::string dir = Pack(checkpoint);
  const std::optional<Model> product = Open(dir);
  ASSERT_TRUE(product.has_value());
  const page::ModelFiles files(dir);
  EXPECT_GT(files.tile_counts().scattered, 0);
  page::Model pages(files);
  ExpectSameBits(*product, pages, Numbers(20, checkpoint.config.vocab));
}

TEST_F(PagesTest, GiveTheBitsOfAModelOfOddShapes) {
  const Checkpoint checkpoint = testing::RandomCheckpoint(testing::OddCheckpointConfig(), 4);
  PackOptions options;
  options.whole = true;
  options.max_pack_bytes = 1;  // a pack for every tile
  const std::string dir = Pack(checkpoint, options);
  const std::optional<Model> product = Open(dir);
  ASSERT_TRUE(product.has_value());
  const page::ModelFiles files(dir);
  page::Model pages(files);
  ExpectSameBits(*product, pages, Numbers(20, checkpoint.config.vocab));
}

TEST_F(PagesTest, GiveTheBitsOfAModelWithoutFlagsWhoseStatesAreRenormalised) {
  ModelConfig config = testing::SmallConfig();
  config.attention_period = 2;
  config.key_scale = config.readout_norm = false;
  config.decay_floor = -0.05f;
  config.state_norm_period = 3;
  config.rope_theta = 500000.5;
  const std::string dir = Pack(testing::RandomCheckpoint(config, 5));
  const std::optional<Model> product = Open(dir);
  ASSERT_TRUE(product.has_value());
  const page::ModelFiles files(dir);
  page::Model pages(files);
  ExpectSameBits(*product, pages, Numbers(30, config.vocab));
  EXPECT_GT(pages.renormalisations(), 0);
}

// Neurons of every kind, with regions of several edges.
ModelConfig SlowConfig(const ModelConfig& from, RouteFrom route_from) {
  ModelConfig config = from;
  config.route_from = route_from;
  config.slow_rate = 0.3f;
  config.route_bias = true;
  return config;
}

ModelConfig AddressConfig() {
  ModelConfig config = SlowConfig(testing::SmallConfig(), RouteFrom::kAddress);
  config.lattice = {4, 2, 4}, config.region = {2, 2, 2};
  config.f = 64 + 64 + 64 + 3;
  config.base_neurons = config.member_neurons = 64, config.own_neurons = 3;
  return config;
}

TEST_F(PagesTest, GiveTheBitsOfModelsThatAreRoutedByTheTokensBefore) {
  for (const ModelConfig& config :
       {SlowConfig(testing::OddCheckpointConfig(), RouteFrom::kAhead), AddressConfig()}) {
    const std::string dir = Pack(testing::RandomCheckpoint(config, 6));
    const std::optional<Model> product = Open(dir);
    ASSERT_TRUE(product.has_value());
    const page::ModelFiles files(dir);
    EXPECT_EQ(files.model_hash(), product->hash());
    page::Model pages(files);
    ExpectSameBits(*product, pages, Numbers(30, config.vocab));
  }
}

void ExpectSameMatrix(const page::Matrix& got, const page::Matrix& want, const std::string& name) {
  EXPECT_EQ(got.weights, want.weights) << name;
  EXPECT_EQ(got.scale, want.scale) << name;
}

TEST_F(PagesTest, QuantiseACheckpointToThePackersCodes) {
  for (const ModelConfig& config :
       {testing::SmallConfig(), testing::OddCheckpointConfig(), AddressConfig()}) {
    const std::string dir = Pack(testing::RandomCheckpoint(config, 7));
    const page::ModelFiles packed(dir);
    const page::CheckpointFiles checkpoint(dir + ".checkpoint", packed.config());
    ExpectSameMatrix(packed.matrix("embed"), checkpoint.Embedding(), "embed");
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      const std::string p = "layers." + std::to_string(layer) + ".";
      const bool attention = config.IsAttention(layer);
      std::vector<std::string> names = {"wq", "wk", "wv", "wo"};
      for (const char* name : {"gate", "up", "down"}) {
        if (attention) names.push_back(name);
      }
      if (!attention) names.push_back("wp");
      for (const std::string& name : names) {
        ExpectSameMatrix(packed.matrix(p + name), checkpoint.TwoBit(p + name), p + name);
      }
      EXPECT_EQ(packed.floats(p + "norm1"), checkpoint.Tensor(p + "norm1"));
      if (attention) continue;
      EXPECT_EQ(packed.floats(p + "bp"), checkpoint.Tensor(p + "bp"));
      for (int64_t e = 0; e < config.num_experts(); ++e) {
        const page::ExpertNeurons got = packed.Expert(layer, e), want = checkpoint.Expert(layer, e);
        EXPECT_EQ(got.gate, want.gate) << layer << " " << e;
        EXPECT_EQ(got.up, want.up) << layer << " " << e;
        EXPECT_EQ(got.down, want.down) << layer << " " << e;
        EXPECT_EQ(got.s_g, want.s_g) << layer << " " << e;
        EXPECT_EQ(got.s_u, want.s_u) << layer << " " << e;
      }
    }
  }
}

TEST_F(PagesTest, GiveTheTokensOfAnyBytes) {
  const page::ModelFiles files(OMNI_SHIPPED_MODEL);
  const page::Tokenizer tokenizer(files.tokenizer());
  const absl::StatusOr<Tokenizer> product = Tokenizer::Parse(files.tokenizer());
  ASSERT_TRUE(product.ok());
  EXPECT_EQ(tokenizer.vocab(), product->vocab());
  std::string every;
  for (int i = 0; i < 4000; ++i) every += static_cast<char>(i * i >> 3);
  const std::string texts[] = {"",
                               " ",
                               "  a",
                               " \n x  y\t z",
                               "don't  stop   ",
                               "caf\xc3\xa9 12345 <|endoftext|>",
                               std::string(200, ' ') + "x",
                               " " + std::string(200, 'a') + " b",
                               std::string(63, ' ') + "ab",
                               every};
  for (const std::string& text : texts) {
    std::vector<int64_t> got;
    for (TokenId token : product->Encode(text)) got.push_back(token.value);
    EXPECT_EQ(got, tokenizer.Encode(text)) << text.substr(0, 40);
    EXPECT_EQ(tokenizer.Decode(got), text);
  }
}

TEST_F(PagesTest, RefuseAModelWithOneByteAltered) {
  const Checkpoint checkpoint = testing::RandomCheckpoint(testing::SmallConfig(), 6);
  const std::string dir = Pack(checkpoint);
  for (const char* name :
       {"model.json", "deltas.json", "shared.bin", "tokenizer.omni", "packs/tiles-000.bin"}) {
    const std::string path = dir + "/" + name;
    std::FILE* file = std::fopen(path.c_str(), "r+b");
    ASSERT_NE(file, nullptr) << path;
    std::fseek(file, 100, SEEK_SET);
    const int byte = std::fgetc(file);
    std::fseek(file, 100, SEEK_SET);
    std::fputc(byte ^ 1, file);
    std::fclose(file);
    EXPECT_ANY_THROW(page::ModelFiles{dir}) << name;
    file = std::fopen(path.c_str(), "r+b");
    std::fseek(file, 100, SEEK_SET);
    std::fputc(byte, file);
    std::fclose(file);
  }
  EXPECT_NO_THROW(page::ModelFiles{dir});
}

}  // namespace
}  // namespace omni
