#include "store/model/model.h"
#include "store/format/model_summary.h"
#include "store/pack/pack.h"

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <thread>

#include "engine/model/quantize.h"
#include "store/file/files.h"
#include "tests/store/model/model_digest.h"
#include "tests/testing/checkpoint_fixture.h"
#include "tests/testing/file_bytes.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

namespace fs = std::filesystem;
using testing::Checkpoint;
using testing::FileBytes;
using ::testing::HasSubstr;
using testing::RandomCheckpoint;
using testing::TempDir;
using testing::Tensor;

std::vector<std::string> Files(const std::string& dir) { return ListFiles(dir).value(); }

std::optional<Model> MustOpen(const std::string& dir) {
  auto model = OpenModel(dir);
  if (!model.ok()) {
    ADD_FAILURE() << model.status();
    return std::nullopt;
  }
  return *std::move(model);
}

// All files but RocksDB's and their list.
void ExpectSameFiles(const std::string& a, const std::string& b) {
  const auto keep = [](std::vector<std::string> names) {
    std::erase_if(names, [](const std::string& n) { return n.starts_with("deltas") || n.ends_with('/'); });
    return names;
  };
  const auto names = keep(Files(a));
  ASSERT_EQ(names, keep(Files(b)));
  ASSERT_GE(names.size(), 3u);
  for (const std::string& name : names)
    EXPECT_EQ(FileBytes(a + "/" + name), FileBytes(b + "/" + name)) << name;
}

// Decodes by the format's words, one value at a time.
int Trit(const uint8_t* matrix, int64_t group_stride, int64_t row, int64_t column) {
  int code = matrix[row / 5 * group_stride + column];
  for (int64_t i = 0; i < row % 5; ++i) code /= 3;
  return code % 3 - 1;
}

int Level(const kernels::TwoBitMatrix& m, int64_t row, int64_t column) {
  const uint8_t byte = m.base[(row / 4 * m.num_blocks + column / 64) * 64 + column % 64];
  return 2 * (byte >> (2 * (row % 4)) & 3) - 3;
}

float FloatAt(const uint8_t* p) {
  float v;
  std::memcpy(&v, p, 4);
  return v;
}

void ExpectLinear(const TwoBitLinear& linear, const Tensor& tensor) {
  ASSERT_EQ(linear.rows, tensor.shape[0]);
  ASSERT_EQ(linear.cols, tensor.shape[1]);
  std::vector<int8_t> levels(static_cast<size_t>(linear.cols));
  for (int64_t row = 0; row < linear.rows; ++row) {
    const float s = TwoBitLevels(tensor.values.data() + row * linear.cols, linear.cols, levels.data());
    ASSERT_EQ(linear.scale[row], s / 2);
    for (int64_t j = 0; j < linear.cols; ++j) {
      ASSERT_EQ(Level(linear.m, row, j), levels[static_cast<size_t>(j)]) << row << " " << j;
    }
  }
}

void ExpectFloats(const float* got, const Tensor& tensor) {
  ASSERT_NE(got, nullptr);
  for (size_t i = 0; i < tensor.values.size(); ++i) ASSERT_EQ(got[i], tensor.values[i]) << i;
}

void ExpectEmbedding(const ModelWeights& w, const Tensor& tensor) {
  const int64_t d = w.config.d;
  std::vector<int8_t> q(static_cast<size_t>(d));
  for (int64_t row = 0; row < w.config.vocab; ++row) {
    ASSERT_EQ(w.embedding_scale[row], Int8Row(tensor.values.data() + row * d, d, q.data()));
    for (int64_t j = 0; j < w.embedding.cols_padded; ++j) {
      ASSERT_EQ(w.embedding.base[row * w.embedding.stride + j], j < d ? q[static_cast<size_t>(j)] : 0);
    }
  }
}

// The float row of neuron n of an expert's part, from the checkpoint's tensor of its group: base, then the
// region's, then the place's in the region, then its own.
const float* NeuronRow(const Checkpoint& c, int64_t layer, ExpertId expert, const char* part, int64_t n) {
  const ModelConfig& m = c.config;
  const struct {
    const char* tensor;
    int64_t neurons, copy;
  } groups[] = {{".base.", m.base_neurons, 0},
                {".tied.", m.f - m.base_neurons - m.member_neurons - m.own_neurons, m.RegionOf(expert).value},
                {".member.", m.member_neurons, m.IndexInRegion(expert)},
                {".own.", m.own_neurons, expert.value}};
  for (const auto& group : groups) {
    if (n < group.neurons) {
      const Tensor& tensor = c.tensors.at(absl::StrCat("layers.", layer, group.tensor, part));
      return tensor.values.data() + (group.copy * group.neurons + n) * m.d;
    }
    n -= group.neurons;
  }
  return nullptr;
}

void ExpectExpert(const ExpertTiles& got, const Checkpoint& c, int64_t layer, ExpertId expert) {
  const int64_t d = c.config.d;
  const TileLayout layout(d);
  ASSERT_EQ(static_cast<int64_t>(got.tiles.size()), TilesPerExpert(c.config));
  for (int64_t n = 0; n < PadTo(c.config.f, 64); ++n) {
    const uint8_t* tile = got.tiles[static_cast<size_t>(n / 64)];
    ASSERT_EQ(reinterpret_cast<uintptr_t>(tile) % 64, 0u);
    std::vector<int8_t> trits[3] = {};
    float mean[3] = {};
    for (int part = 0; part < 3; ++part) {
      trits[part].assign(static_cast<size_t>(d), 0);
      if (n >= c.config.f) continue;
      const char* const names[] = {"gate", "up", "down"};
      mean[part] = Ternarize(NeuronRow(c, layer, expert, names[part], n), d, 1, trits[part].data());
    }
    ASSERT_EQ(FloatAt(tile + layout.gate_scale_offset() + 4 * (n % 64)), mean[0]);
    ASSERT_EQ(FloatAt(tile + layout.up_scale_offset() + 4 * (n % 64)), mean[1] * mean[2]);
    for (int64_t i = 0; i < d; ++i) {
      const size_t at = static_cast<size_t>(i);
      ASSERT_EQ(Trit(tile, layout.d_pad, 2 * (n % 64), i), trits[0][at]);
      ASSERT_EQ(Trit(tile, layout.d_pad, 2 * (n % 64) + 1, i), trits[1][at]);
      ASSERT_EQ(Trit(tile + layout.down_offset(), 64, i, n % 64), trits[2][at]);
    }
  }
}

void ExpectModel(const Model& model, const Checkpoint& c) {
  const ModelWeights& w = model.weights();
  ASSERT_EQ(w.config, c.config);
  EXPECT_EQ(model.tokenizer().Serialize(), c.tokenizer.Serialize());
  ExpectEmbedding(w, c.tensors.at("embed"));
  ExpectFloats(w.norm_out, c.tensors.at("norm_out"));
  for (int64_t l = 0; l < c.config.layers; ++l) {
    const LayerWeights& layer = w.layers[static_cast<size_t>(l)];
    const auto tensor = [&](const char* name) -> const Tensor& {
      return c.tensors.at(absl::StrCat("layers.", l, ".", name));
    };
    ExpectFloats(layer.norm1, tensor("norm1"));
    ExpectFloats(layer.norm2, tensor("norm2"));
    ExpectLinear(layer.wq, tensor("wq"));
    ExpectLinear(layer.wk, tensor("wk"));
    ExpectLinear(layer.wv, tensor("wv"));
    ExpectLinear(layer.wo, tensor("wo"));
    if (c.config.IsAttention(l)) {
      ExpectLinear(layer.gate, tensor("gate"));
      ExpectLinear(layer.up, tensor("up"));
      ExpectLinear(layer.down, tensor("down"));
      EXPECT_FALSE(model.experts().Acquire(LayerId(static_cast<int32_t>(l)), ExpertId(0)).ok());
      continue;
    }
    ExpectLinear(layer.wp, tensor("wp"));
    ExpectFloats(layer.bp, tensor("bp"));
    if (c.config.readout_norm) ExpectFloats(layer.norm_readout, tensor("norm_readout"));
    ExpectFloats(layer.route, tensor("route"));
    ExpectFloats(layer.positions, tensor("positions"));
    if (c.config.route_bias) ExpectFloats(layer.route_bias, tensor("route_bias"));
    if (c.config.route_from == RouteFrom::kAddress) {
      const std::vector<uint8_t>& members = tensor("members").bytes;
      EXPECT_TRUE(std::equal(members.begin(), members.end(), layer.members));
    }
    for (int32_t e = 0; e < c.config.num_experts(); ++e) {
      auto tiles = model.experts().Acquire(LayerId(static_cast<int32_t>(l)), ExpertId(e));
      ASSERT_TRUE(tiles.ok()) << tiles.status();
      ExpectExpert(*tiles, c, l, ExpertId(e));
    }
  }
}

ModelConfig With(ModelConfig c, int64_t own_neurons) {
  c.own_neurons = own_neurons;
  return c;
}

ModelConfig OneRank() {
  ModelConfig c = testing::OddCheckpointConfig();
  c.r = 1, c.f = 3, c.own_neurons = 3;
  c.d = 2, c.heads = 1, c.kv_heads = 1;
  c.lattice = {1, 1, 1}, c.region = {1, 1, 1};
  c.readout_norm = false;
  return c;
}

ModelConfig SlowRoutes(ModelConfig c, RouteFrom route_from) {
  c.route_from = route_from, c.slow_rate = 0.25f, c.route_bias = true;
  return c;
}

// Neurons of every kind, the last tile not full.
ModelConfig AllGroups() {
  ModelConfig c = SlowRoutes(testing::OddCheckpointConfig(), RouteFrom::kAddress);
  c.f = 64 + 64 + 128 + 5;
  c.base_neurons = 64, c.member_neurons = 128, c.own_neurons = 5;
  return c;
}

ModelConfig OnlyAttention() {
  ModelConfig c = testing::SmallConfig();
  c.attention_period = 1;
  return c;
}

struct Case {
  std::string name;
  ModelConfig config;
  PackOptions options;
};

class PackedModel : public ::testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(
    Shapes, PackedModel,
    ::testing::Values(Case{"Small", testing::SmallConfig(), {}},
                      Case{"Odd", testing::OddCheckpointConfig(), {}},
                      Case{"OddAllTied", With(testing::OddCheckpointConfig(), 0), {}},
                      Case{"OddAllOwn", With(testing::OddCheckpointConfig(), 130), {}},
                      Case{"SmallWhole", testing::SmallConfig(), {.whole = true}},
                      Case{"SmallPages", testing::SmallConfig(), {.tile_alignment = 4096}},
                      Case{"OddManyPacks", testing::OddCheckpointConfig(), {.max_pack_bytes = 1}},
                      Case{"Ahead", SlowRoutes(testing::OddCheckpointConfig(), RouteFrom::kAhead), {}},
                      Case{"Address", SlowRoutes(testing::SmallConfig(), RouteFrom::kAddress), {}},
                      Case{"AllGroups", AllGroups(), {}},
                      Case{"AllGroupsWhole", AllGroups(), {.whole = true}}, Case{"OneRank", OneRank(), {}},
                      Case{"OnlyAttention", OnlyAttention(), {}}),
    [](const auto& info) { return info.param.name; });

TEST_P(PackedModel, HoldsWhatDirectQuantisationGives) {
  TempDir temp;
  const Checkpoint checkpoint = RandomCheckpoint(GetParam().config, 1);
  ASSERT_TRUE(WriteCheckpoint(temp / "c", checkpoint).ok());
  const absl::Status packed = PackModel(temp / "c", temp / "m", GetParam().options);
  ASSERT_TRUE(packed.ok()) << packed;
  const auto model = MustOpen(temp / "m");
  ASSERT_TRUE(model.has_value());
  ExpectModel(*model, checkpoint);
}

TEST_P(PackedModel, PackedTwiceOrReadAndPackedAgainIsTheSameModel) {
  TempDir temp;
  ASSERT_TRUE(testing::WriteRandomCheckpoint(temp / "c", GetParam().config, 2).ok());
  ASSERT_TRUE(PackModel(temp / "c", temp / "a", GetParam().options).ok());
  ASSERT_TRUE(PackModel(temp / "c", temp / "b", GetParam().options).ok());
  const absl::Status again = RepackModel(temp / "a", temp / "again", GetParam().options);
  ASSERT_TRUE(again.ok()) << again;
  ExpectSameFiles(temp / "a", temp / "b");
  ExpectSameFiles(temp / "a", temp / "again");
  const auto a = MustOpen(temp / "a"), b = MustOpen(temp / "b"), c = MustOpen(temp / "again");
  ASSERT_TRUE(a && b && c);
  EXPECT_EQ(a->hash().size(), 32u);
  EXPECT_EQ(a->hash(), b->hash());
  EXPECT_EQ(a->hash(), c->hash());
  EXPECT_EQ(testing::ModelContent(*a), testing::ModelContent(*c));
}

// Every figure of the statistics, for comparing.
std::vector<double> Figures(const ModelStats& s) {
  std::vector<double> figures = {s.neighbour_delta_same_region, s.neighbour_delta_other_region,
                                 s.keyframe_delta};
  for (const int64_t n :
       {s.parameters.total(), s.parameters.active(), s.unique_parameters, s.shared_bytes, s.tile_bytes,
        s.delta_db_bytes, s.total_bytes, s.tiles, s.unique_tiles, s.stored_tiles, s.whole_tables,
        s.delta_tables, s.inline_tiles, s.inline_bytes, s.regions, s.keyframe_bytes, s.delta_bytes}) {
    figures.push_back(static_cast<double>(n));
  }
  return figures;
}

TEST_P(PackedModel, SummaryIsThatOfTheOpenedModel) {
  TempDir temp;
  ASSERT_TRUE(testing::WriteRandomCheckpoint(temp / "c", GetParam().config, 2).ok());
  ASSERT_TRUE(PackModel(temp / "c", temp / "m", GetParam().options).ok());
  const auto model = MustOpen(temp / "m");
  absl::StatusOr<ModelSummary> summary = SummarizeModel(temp / "m/");
  ASSERT_TRUE(summary.ok()) << summary.status();
  ASSERT_TRUE(model.has_value());
  EXPECT_EQ(summary->config, GetParam().config);
  EXPECT_EQ(summary->model_hash, model->hash());
  EXPECT_EQ(Figures(summary->stats), Figures(model->stats()));
}

// Checkpoint, packed directory and the model opened from it.
struct Packed {
  explicit Packed(const Checkpoint& checkpoint, const PackOptions& options = {}) {
    EXPECT_TRUE(WriteCheckpoint(temp / "c", checkpoint).ok());
    const absl::Status packed = PackModel(temp / "c", temp / "m", options);
    EXPECT_TRUE(packed.ok()) << packed;
    model = MustOpen(temp / "m");
  }
  TempDir temp;
  std::optional<Model> model;
};

TEST(ModelStats, ExpertsOfARegionShareTheirTiedTiles) {
  const ModelConfig c = testing::SmallConfig();  // one tied and one own tile an expert
  Packed p(RandomCheckpoint(c, 3));
  const ModelStats stats = p.model->stats();
  constexpr int64_t kLayers = 3;
  EXPECT_EQ(stats.tiles, kLayers * 8 * 2);
  EXPECT_EQ(stats.unique_tiles, kLayers * (2 + 8));
  EXPECT_EQ(stats.stored_tiles, stats.unique_tiles);
  EXPECT_EQ(stats.whole_tables, kLayers * 2);
  EXPECT_EQ(stats.delta_tables, kLayers * 6);
  EXPECT_EQ(stats.inline_tiles, 0);
  EXPECT_DOUBLE_EQ(stats.keyframe_delta, 0.5);
  EXPECT_DOUBLE_EQ(stats.neighbour_delta_same_region, 0.5);
  EXPECT_DOUBLE_EQ(stats.neighbour_delta_other_region, 1.0);
  EXPECT_EQ(stats.unique_parameters, stats.parameters.shared() + stats.unique_tiles * 64 * 3 * c.d);
  EXPECT_EQ(stats.tile_bytes, 64 + stats.unique_tiles * TileLayout(c.d).payload());
  auto one = p.model->experts().Acquire(LayerId(0), ExpertId(0)),
       other = p.model->experts().Acquire(LayerId(0), ExpertId(5));
  ASSERT_TRUE(one.ok() && other.ok());
  EXPECT_EQ(one->tiles[0], other->tiles[0]) << "switching experts must not move the tied tile";
  EXPECT_NE(one->tiles[1], other->tiles[1]);
}

TEST(ModelStats, SaysWhatKeyframesAndDeltasTake) {
  const ModelConfig c =
      testing::SmallConfig();  // two regions of four experts; one tied and one own tile an expert
  const ModelStats stats = Packed(RandomCheckpoint(c, 3)).model->stats();
  const int64_t payload = TileLayout(c.d).payload();
  constexpr int64_t kLayers = 3;
  EXPECT_EQ(stats.regions, kLayers * 2);
  EXPECT_EQ(stats.keyframe_bytes, kLayers * 2 * 2 * payload);
  EXPECT_EQ(stats.delta_bytes, kLayers * 2 * 3 * payload);
}

TEST(ModelStats, SummaryReadsNoTilesAndNoSharedWeightsButChecksSizes) {
  Packed p(RandomCheckpoint(testing::SmallConfig(), 3));
  const std::vector<double> figures = Figures(p.model->stats());
  for (const char* name : {"shared.bin", "packs/tiles-000.bin"}) {
    const std::string path = p.temp / "m/" + name, good = FileBytes(path);
    std::string other = good;
    other[good.size() / 2] = static_cast<char>(other[good.size() / 2] ^ 1);
    std::ofstream(path, std::ios::binary | std::ios::trunc) << other;
    EXPECT_EQ(Figures(SummarizeModel(p.temp / "m")->stats), figures);
    fs::resize_file(path, good.size() - 1);
    EXPECT_THAT(std::string(SummarizeModel(p.temp / "m").status().message()),
                HasSubstr(std::string(name) + ": " + std::to_string(good.size() - 1) +
                          " bytes long, should be " + std::to_string(good.size())));
    std::ofstream(path, std::ios::binary | std::ios::trunc) << good;
  }
  fs::remove(p.temp / "m/tokenizer.omni");
  EXPECT_THAT(std::string(SummarizeModel(p.temp / "m").status().message()),
              HasSubstr("tokenizer.omni: the file is missing"));
}

TEST(ModelStats, EqualTilesOfDifferentRegionsAreStoredOnce) {
  Checkpoint c = RandomCheckpoint(testing::SmallConfig(), 3);
  for (const char* part : {"gate", "up", "down"}) {
    std::vector<float>& tied = c.tensors.at(absl::StrCat("layers.0.tied.", part)).values;
    std::copy_n(tied.begin(), tied.size() / 2, tied.begin() + static_cast<ptrdiff_t>(tied.size() / 2));
  }
  const ModelStats stats = Packed(c).model->stats();
  EXPECT_EQ(stats.unique_tiles, 3 * (2 + 8) - 1);
  EXPECT_EQ(stats.stored_tiles, stats.unique_tiles);
}

TEST(ModelStats, BytesAreThoseOnDisk) {
  Packed p(RandomCheckpoint(testing::OddCheckpointConfig(), 4), {.max_pack_bytes = 20000});
  const ModelStats stats = p.model->stats();
  int64_t total = 0, tiles = 0, deltas = 0;
  for (const std::string& name : Files(p.temp / "m")) {
    const int64_t bytes = static_cast<int64_t>(fs::file_size(p.temp / "m/" + name));
    total += bytes;
    if (name.starts_with("packs/")) tiles += bytes;
    if (name.starts_with("deltas/")) deltas += bytes;
    if (name.starts_with("packs/")) {
      EXPECT_LE(bytes, 20000);
    }
  }
  EXPECT_EQ(stats.total_bytes, total);
  EXPECT_EQ(stats.tile_bytes, tiles);
  EXPECT_EQ(stats.delta_db_bytes, deltas);
  EXPECT_EQ(stats.shared_bytes, static_cast<int64_t>(fs::file_size(p.temp / "m/shared.bin")));
}

TEST(ModelStats, WholeExpertsShareNothingOnDisk) {
  Packed p(RandomCheckpoint(testing::SmallConfig(), 3), {.whole = true});
  const ModelStats stats = p.model->stats();
  EXPECT_EQ(stats.stored_tiles, stats.tiles);
  EXPECT_EQ(stats.unique_tiles, 3 * (2 + 8));
  EXPECT_EQ(stats.whole_tables, 3 * 8);
}

// Experts of a region that differ in a few weights of one neuron.
Checkpoint NearlyEqualExperts(const ModelConfig& config) {
  Checkpoint c = RandomCheckpoint(config, 5);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if (config.IsAttention(layer)) continue;
    for (const char* part : {"gate", "up", "down"}) {
      Tensor& own = c.tensors.at(absl::StrCat("layers.", layer, ".own.", part));
      const int64_t size = config.own_neurons * config.d;
      for (int32_t e = 0; e < config.num_experts(); ++e) {
        const ExpertId keyframe = config.ExpertOf(config.RegionOf(ExpertId(e)), 0);
        if (keyframe.value == e) continue;
        std::copy_n(own.values.begin() + keyframe.value * size, size, own.values.begin() + e * size);
        for (int64_t i = 0; i < 3; ++i) own.values[static_cast<size_t>(e * size + 17 * e + 5 * i)] *= -1.0f;
      }
    }
  }
  return c;
}

TEST(InlineDelta, HoldsTilesThatDifferInAFewTrits) {
  for (const ModelConfig& config :
       {With(testing::SmallConfig(), 128), With(testing::OddCheckpointConfig(), 130)}) {
    const Checkpoint checkpoint = NearlyEqualExperts(config);
    Packed p(checkpoint);
    ASSERT_TRUE(p.model.has_value());
    ExpectModel(*p.model, checkpoint);
    const ModelStats stats = p.model->stats();
    EXPECT_GT(stats.inline_tiles, 0);
    EXPECT_LT(stats.inline_bytes, 64 * stats.inline_tiles);
    EXPECT_EQ(stats.stored_tiles + stats.inline_tiles, stats.unique_tiles);
    const absl::Status again = RepackModel(p.temp / "m", p.temp / "again", {});
    ASSERT_TRUE(again.ok()) << again;
    ExpectSameFiles(p.temp / "m", p.temp / "again");
    const absl::Status whole = RepackModel(p.temp / "m", p.temp / "whole", {.whole = true});
    ASSERT_TRUE(whole.ok()) << whole;
    EXPECT_GT(MustOpen(p.temp / "whole")->stats().tile_bytes, stats.tile_bytes);
    EXPECT_EQ(testing::ModelContent(*MustOpen(p.temp / "whole")), testing::ModelContent(*p.model));
  }
}

TEST(OpenModelTest, AcquireIsSafeFromManyThreadsAndOutlivesTheModel) {
  Packed p(RandomCheckpoint(testing::SmallConfig(), 6));
  std::vector<std::thread> threads;
  for (int32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&p, t] {
      for (int32_t i = 0; i < 1000; ++i)
        EXPECT_TRUE(p.model->experts().Acquire(LayerId(i % 3), ExpertId((i + t) % 8)).ok());
    });
  }
  for (std::thread& t : threads) t.join();
  const ExpertTiles kept = *p.model->experts().Acquire(LayerId(1), ExpertId(7));
  p.model.reset();
  EXPECT_TRUE(CheckTile(TileLayout(64), kept.tiles[1]).ok());
}

TEST(OpenModelTest, AcquireRejectsIdsOutOfRange) {
  Packed p(RandomCheckpoint(testing::SmallConfig(), 6));
  EXPECT_FALSE(p.model->experts().Acquire(LayerId(3), ExpertId(0)).ok());
  EXPECT_FALSE(p.model->experts().Acquire(LayerId(4), ExpertId(0)).ok());
  EXPECT_FALSE(p.model->experts().Acquire(LayerId(-1), ExpertId(0)).ok());
  EXPECT_FALSE(p.model->experts().Acquire(LayerId(0), ExpertId(8)).ok());
  EXPECT_FALSE(p.model->experts().Acquire(LayerId(0), ExpertId(-1)).ok());
}

TEST(PackModel, RefusesASecondWriter) {
  TempDir temp;
  ASSERT_TRUE(testing::WriteRandomCheckpoint(temp / "c", testing::SmallConfig(), 7).ok());
  PackOptions options;
  absl::Status second;
  options.progress = [&](double) {
    if (second.ok()) second = PackModel(temp / "c", temp / "m", {});
  };
  ASSERT_TRUE(PackModel(temp / "c", temp / "m", options).ok());
  EXPECT_THAT(std::string(second.message()), HasSubstr("another process is writing it"));
  EXPECT_THAT(std::string(PackModel(temp / "c", temp / "m", {}).message()), HasSubstr("not empty"));
  EXPECT_TRUE(MustOpen(temp / "m").has_value());
}

TEST(PackModel, RejectsAnAlignmentThatIsNone) {
  TempDir temp;
  ASSERT_TRUE(testing::WriteRandomCheckpoint(temp / "c", testing::SmallConfig(), 7).ok());
  for (const int64_t alignment : {-64, 1, 32, 100, 1 << 21}) {
    EXPECT_FALSE(PackModel(temp / "c", temp / "m", {.tile_alignment = alignment}).ok()) << alignment;
  }
}

// One layer of each kind.
ModelConfig ShortConfig() {
  ModelConfig c = testing::OddCheckpointConfig();
  c.layers = 2, c.attention_period = 2;
  return c;
}

std::string PackError(const Checkpoint& checkpoint) {
  TempDir temp;
  EXPECT_TRUE(WriteCheckpoint(temp / "c", checkpoint).ok());
  const absl::Status status = PackModel(temp / "c", temp / "m", {});
  EXPECT_EQ(std::distance(fs::directory_iterator(temp.path()), {}), 1)
      << "something was left beside the checkpoint";
  return std::string(status.message());
}

TEST(PackModel, RejectsACheckpointThatLacksATensorAndNamesIt) {
  const Checkpoint good = RandomCheckpoint(ShortConfig(), 8);
  for (const auto& [name, tensor] : good.tensors) {
    Checkpoint bad = good;
    bad.tensors.erase(name);
    EXPECT_THAT(PackError(bad), HasSubstr(name));
  }
}

TEST(PackModel, RejectsTensorsOfAnotherShape) {
  const Checkpoint good = RandomCheckpoint(ShortConfig(), 8);
  for (const auto& [name, tensor] : good.tensors) {
    Checkpoint bad = good;
    Tensor& t = bad.tensors.at(name);
    t.values.resize(t.values.size() / static_cast<size_t>(t.shape[0]) * static_cast<size_t>(t.shape[0] + 1),
                    0.5f);
    ++t.shape[0];
    EXPECT_THAT(PackError(bad), HasSubstr(name));
  }
}

TEST(PackModel, RejectsValuesThatAreNotFinite) {
  const Checkpoint good = RandomCheckpoint(ShortConfig(), 8);
  float value = std::numeric_limits<float>::infinity();
  for (const auto& [name, tensor] : good.tensors) {
    value = std::isnan(value) ? std::numeric_limits<float>::infinity() : std::nanf("");
    Checkpoint bad = good;
    bad.tensors.at(name).values.back() = value;
    EXPECT_THAT(PackError(bad), HasSubstr("not finite")) << name;
  }
}

TEST(PackModel, RejectsScalesWhoseProductIsTooLarge) {
  Checkpoint bad = RandomCheckpoint(ShortConfig(), 8);
  for (const char* name : {"layers.0.own.up", "layers.0.own.down"}) {
    for (float& v : bad.tensors.at(name).values) v = 1e30f;
  }
  EXPECT_THAT(PackError(bad), HasSubstr("layer 0, expert 0, neuron 64"));
}

TEST(PackModel, RejectsPositionsOffTheTorusAndUnknownTensors) {
  Checkpoint bad = RandomCheckpoint(testing::SmallConfig(), 8);
  float& position = bad.tensors.at("layers.1.positions").values[4];
  const float good = position;
  for (const float off : {1.0f, -0.25f}) {
    position = off;
    EXPECT_THAT(PackError(bad),
                HasSubstr(absl::StrCat("layers.1.positions holds ", off, "; positions lie in [0, 1)")));
  }
  position = good;
  bad.tensors["layers.0.adapter"] = {{1}, {0.0f}};
  EXPECT_THAT(PackError(bad), HasSubstr("'layers.0.adapter' has no place"));
}

TEST(PackModel, RejectsDirectoriesThatAreNoCheckpoint) {
  TempDir temp;
  EXPECT_THAT(std::string(PackModel(temp / "none", temp / "m", {}).message()),
              HasSubstr("training checkpoint?"));
  ASSERT_TRUE(testing::WriteRandomCheckpoint(temp / "c", testing::SmallConfig(), 9).ok());
  for (const char* name : {"tokenizer.omni", "model.safetensors", "config.json"}) {
    fs::rename(temp / "c/" + name, temp / "away");
    EXPECT_THAT(std::string(PackModel(temp / "c", temp / "m", {}).message()), HasSubstr(name));
    std::ofstream(temp / "c/" + name) << "garbage";
    EXPECT_THAT(std::string(PackModel(temp / "c", temp / "m", {}).message()), HasSubstr(name));
    fs::rename(temp / "away", temp / "c/" + name);
  }
  EXPECT_TRUE(PackModel(temp / "c", temp / "m", {}).ok());
}

}  // namespace
}  // namespace omni
