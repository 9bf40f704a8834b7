#include "engine/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

namespace omni {
namespace {

using ::testing::HasSubstr;

ModelConfig Make(const std::string& name) { return Preset(name).value(); }

// Billions, rounded to three digits after the point: the way the model's table states its figures.
int64_t Millions(int64_t n) { return (n + 500'000) / 1'000'000; }

TEST(Config, ReproducesTheFiguresOfTheDesignTarget) {
  const ParameterCount n = CountParameters(Make("perspective-1t"));
  EXPECT_EQ(Millions(n.pdr), 3146);
  EXPECT_EQ(Millions(n.gqa), 839);
  EXPECT_EQ(Millions(n.shared_ffn), 2705);
  EXPECT_EQ(Millions(n.embedding), 134);
  EXPECT_EQ(Millions(n.shared()), 6825);
  EXPECT_EQ(Millions(n.per_expert), 8116);
  EXPECT_EQ(n.experts, 128 * n.per_expert);
  EXPECT_EQ((n.total() + 50'000'000) / 100'000'000, 10457);  // 1.0457 T
  EXPECT_EQ((n.active() + 5'000'000) / 10'000'000, 1494);    // 14.94 B
}

TEST(Config, TheDesignTargetKnowsItsRoutesBefore) {
  const ModelConfig c = Make("perspective-1t");
  EXPECT_EQ(c.format(), 2);
  EXPECT_EQ(c.route_from, RouteFrom::kAddress);
  EXPECT_EQ(c.slow_rate, 1.0f / 16);
  EXPECT_EQ(c.base_neurons + c.region_neurons() + c.member_neurons + c.own_neurons, c.f);
  for (const int64_t neurons : {c.base_neurons, c.region_neurons(), c.member_neurons, c.own_neurons}) {
    EXPECT_GT(neurons, 0);
    EXPECT_EQ(neurons % 64, 0);
  }
}

TEST(Config, CountsEveryTensorOfASmallModel) {
  const ModelConfig c = Make("tiny");  // three PDR layers and one of attention
  const ParameterCount n = CountParameters(c);
  EXPECT_EQ(n.pdr, 3 * (3 * 64 * 64 + 2 * 16 * 64));
  EXPECT_EQ(n.gqa, 2 * 64 * 64 + 2 * 2 * 16 * 64);
  EXPECT_EQ(n.shared_ffn, 3 * 64 * 128);
  EXPECT_EQ(n.embedding, 300 * 64);
  EXPECT_EQ(n.router, 3 * 3 * 64);
  EXPECT_EQ(n.per_expert, 3 * 3 * 64 * 128);
  EXPECT_EQ(n.norms_router, 64 * (8 + 1 + 3) + 3 * (64 + 3 * 128));
}

TEST(Config, PresetsAreValidAndHaveTheirNames) {
  for (const char* name : {"perspective-1t", "mini", "char", "tiny"}) {
    const ModelConfig c = Make(name);
    EXPECT_EQ(c.preset, name);
    EXPECT_TRUE(Validate(c).ok()) << Validate(c);
    EXPECT_EQ(c.num_experts(), 128);
    EXPECT_EQ(c.num_regions(), 16);
  }
  EXPECT_EQ(Preset("huge").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Preset("huge").status().message(), HasSubstr("perspective-1t"));
}

TEST(Config, EveryFourthLayerAttendsAndLayersNeedNotBeAMultiple) {
  ModelConfig c = Make("tiny");
  c.layers = 6;
  ASSERT_TRUE(Validate(c).ok());
  EXPECT_TRUE(c.IsAttention(3));
  EXPECT_FALSE(c.IsAttention(5));
  EXPECT_EQ(CountParameters(c).gqa, CountParameters(Make("tiny")).gqa);
}

void ExpectRegionsPartition(const ModelConfig& c) {
  std::set<int32_t> seen;
  for (int32_t region = 0; region < c.num_regions(); ++region) {
    for (int64_t i = 0; i < c.experts_per_region(); ++i) {
      const ExpertId e = c.ExpertOf(RegionId(region), i);
      ASSERT_GE(e.value, 0);
      ASSERT_LT(e.value, c.num_experts());
      ASSERT_TRUE(seen.insert(e.value).second) << "expert " << e.value << " is in two regions";
      ASSERT_EQ(c.RegionOf(e), RegionId(region));
      ASSERT_EQ(c.IndexInRegion(e), i);
    }
  }
  EXPECT_EQ(static_cast<int64_t>(seen.size()), c.num_experts());
}

TEST(Config, RegionsPartitionAnyLattice) {
  ModelConfig c = Make("tiny");
  ExpectRegionsPartition(c);
  c.lattice = {9, 5, 7}, c.region = {3, 5, 1};
  ASSERT_TRUE(Validate(c).ok());
  ExpectRegionsPartition(c);
  c.lattice = {1, 1, 1}, c.region = {1, 1, 1};
  ASSERT_TRUE(Validate(c).ok());
  ExpectRegionsPartition(c);
}

TEST(Config, RegionIsTheBlockAroundTheExpertsCell) {
  const ModelConfig c = Make("tiny");
  const ExpertId e(5 + 8 * (2 + 4 * 3));  // cell (5, 2, 3): block (2, 1, 1) of 4 x 2 x 2, offset (1, 0, 1)
  EXPECT_EQ(c.RegionOf(e), RegionId(2 + 4 * (1 + 2 * 1)));
  EXPECT_EQ(c.IndexInRegion(e), 1 + 2 * (0 + 2 * 1));
  EXPECT_EQ(c.ExpertOf(RegionId(14), 0), ExpertId(4 + 8 * (2 + 4 * 2)));
}

struct Wrong {
  const char* field;
  void (*change)(ModelConfig&);
};

TEST(Config, RejectsEveryWrongFieldByNameAndValue) {
  const Wrong cases[] = {
      {"layers is 0", [](ModelConfig& c) { c.layers = 0; }},
      {"layers is 1025", [](ModelConfig& c) { c.layers = 1025; }},
      {"attention_period is 0", [](ModelConfig& c) { c.attention_period = 0; }},
      {"d is 65540", [](ModelConfig& c) { c.d = 65540; }},
      {"d is -4", [](ModelConfig& c) { c.d = -4; }},
      {"r is 0", [](ModelConfig& c) { c.r = 0; }},
      {"f is 0", [](ModelConfig& c) { c.f = 0; }},
      {"heads is 0", [](ModelConfig& c) { c.heads = 0; }},
      {"heads is 5", [](ModelConfig& c) { c.heads = 5; }},
      {"heads is 64", [](ModelConfig& c) { c.heads = 64; }},
      {"kv_heads is 0", [](ModelConfig& c) { c.kv_heads = 0; }},
      {"kv_heads is 3", [](ModelConfig& c) { c.kv_heads = 3; }},
      {"window is 0", [](ModelConfig& c) { c.window = 0; }},
      {"vocab is 256", [](ModelConfig& c) { c.vocab = 256; }},
      {"lattice.y is 0", [](ModelConfig& c) { c.lattice[1] = 0; }},
      {"lattice is 4096x4096x4",
       [](ModelConfig& c) {
         c.lattice = {4096, 4096, 4};
       }},
      {"region.z is 3", [](ModelConfig& c) { c.region[2] = 3; }},
      {"region.x is -2", [](ModelConfig& c) { c.region[0] = -2; }},
      {"own_neurons is -64", [](ModelConfig& c) { c.own_neurons = -64; }},
      {"own_neurons is 192", [](ModelConfig& c) { c.own_neurons = 192; }},
      {"own_neurons is 63", [](ModelConfig& c) { c.own_neurons = 63; }},
      {"base_neurons is 32", [](ModelConfig& c) { c.base_neurons = 32; }},
      {"member_neurons is 192", [](ModelConfig& c) { c.member_neurons = 192; }},
      {"member_neurons is 32", [](ModelConfig& c) { c.own_neurons = 0, c.member_neurons = 32; }},
      {"slow_rate is 0.5", [](ModelConfig& c) { c.slow_rate = 0.5f; }},
      {"slow_rate is 0;", [](ModelConfig& c) { c.route_from = RouteFrom::kAhead; }},
      {"slow_rate is 1.5", [](ModelConfig& c) { c.route_from = RouteFrom::kAddress, c.slow_rate = 1.5f; }},
      {"region is 512 experts",
       [](ModelConfig& c) {
         c.lattice = c.region = {8, 8, 8}, c.route_from = RouteFrom::kAddress, c.slow_rate = 1;
       }},
      {"decay_floor is 0", [](ModelConfig& c) { c.decay_floor = 0; }},
      {"decay_floor is nan", [](ModelConfig& c) { c.decay_floor = NAN; }},
      {"state_norm_period is 0", [](ModelConfig& c) { c.state_norm_period = 0; }},
      {"rope_theta is inf", [](ModelConfig& c) { c.rope_theta = std::numeric_limits<double>::infinity(); }},
      {"preset is", [](ModelConfig& c) { c.preset = "a\nb"; }},
      {"parameters is about",
       [](ModelConfig& c) {
         c.layers = 1024, c.d = 65536, c.f = 1 << 20, c.own_neurons = 0, c.lattice = {64, 32, 32};
       }},
  };
  for (const Wrong& wrong : cases) {
    ModelConfig c = Make("tiny");
    wrong.change(c);
    const absl::Status status = Validate(c);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << wrong.field;
    EXPECT_THAT(status.message(), HasSubstr(wrong.field));
    EXPECT_THAT(status.message(), HasSubstr("must be"));
  }
}

TEST(Config, AcceptsWidthsThatAreNoPowersOfTwo) {
  ModelConfig c = Make("tiny");
  c.d = 90, c.heads = 9, c.kv_heads = 3, c.r = 7, c.f = 100, c.own_neurons = 36, c.vocab = 257;
  EXPECT_TRUE(Validate(c).ok()) << Validate(c);
  c.own_neurons = 100;
  EXPECT_TRUE(Validate(c).ok()) << Validate(c);
  c.own_neurons = 0;
  EXPECT_TRUE(Validate(c).ok()) << Validate(c);
}

TEST(Config, JsonRoundTripsEveryField) {
  ModelConfig c = Make("tiny");
  c.lattice = {9, 5, 7}, c.region = {3, 5, 1};
  c.decay_floor = -4.1f, c.rope_theta = 12345.678, c.key_scale = false, c.state_norm_period = 77;
  const absl::StatusOr<ModelConfig> back = ConfigFromJson(ToJson(c));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, c);
  EXPECT_EQ(ToJson(*back), ToJson(c));
}

TEST(Config, WhatFormat2AddsIsWrittenOnlyWhereItIsUsed) {
  ModelConfig c = Make("tiny");
  EXPECT_EQ(c.format(), 1);
  EXPECT_THAT(ToJson(c), ::testing::Not(HasSubstr("route_from")));
  const ModelConfig plain = c;
  c.route_from = RouteFrom::kAddress, c.slow_rate = 0.0625f;
  c.own_neurons = 0, c.member_neurons = 64;
  EXPECT_EQ(c.format(), 2);
  EXPECT_THAT(ToJson(c), HasSubstr("\"route_from\": \"address\",\n  \"slow_rate\": 0.0625,\n"
                                   "  \"route_bias\": false,\n  \"base_neurons\": 0,\n"
                                   "  \"member_neurons\": 64\n}\n"));
  const absl::StatusOr<ModelConfig> back = ConfigFromJson(ToJson(c));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, c);
  // Each of them alone makes it format 2.
  for (void (*change)(ModelConfig&) :
       {+[](ModelConfig& m) { m.route_from = RouteFrom::kAhead, m.slow_rate = 1; },
        +[](ModelConfig& m) { m.route_bias = true; },
        +[](ModelConfig& m) { m.base_neurons = 64, m.own_neurons = 0; },
        +[](ModelConfig& m) { m.member_neurons = 64, m.own_neurons = 0; }}) {
    ModelConfig one = plain;
    change(one);
    ASSERT_TRUE(Validate(one).ok()) << Validate(one);
    EXPECT_EQ(one.format(), 2);
    EXPECT_EQ(ConfigFromJson(ToJson(one)).value(), one);
  }
}

TEST(Config, JsonTextIsStable) {
  const std::string text = ToJson(Make("tiny"));
  EXPECT_THAT(text, ::testing::StartsWith(
                        "{\n  \"preset\": \"tiny\",\n  \"layers\": 4,\n  \"attention_period\": 4,\n"));
  EXPECT_THAT(text, ::testing::EndsWith("\"rope_theta\": 10000.0\n}\n"));
}

void ExpectJsonError(std::string text, const std::string& from, const std::string& to,
                     const std::string& message) {
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  const absl::Status status = ConfigFromJson(text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  EXPECT_THAT(status.message(), HasSubstr(message));
}

TEST(Config, JsonErrorsNameTheKey) {
  const std::string good = ToJson(Make("tiny"));
  ExpectJsonError(good, "  \"window\": 16,\n", "", "'window' is missing");
  ExpectJsonError(good, "\"window\"", "\"windows\"", "'window' is missing");
  ExpectJsonError(good, "\"window\": 16", "\"window\": 16, \"widow\": 1", "unknown key 'widow'");
  ExpectJsonError(good, "\"window\": 16", "\"window\": 16, \"window\": 16", "has the key 'window' twice");
  ExpectJsonError(good, "\"window\": 16", "\"window\": \"16\"", "window is of another type");
  ExpectJsonError(good, "\"window\": 16", "\"window\": 16.5", "window is of another type");
  ExpectJsonError(good, "\"window\": 16", "\"window\": 18446744073709551615", "window is of another type");
  ExpectJsonError(good, "\"window\": 16", "\"window\": 0", "window is 0");
  ExpectJsonError(good, "\"key_scale\": true", "\"key_scale\": 1", "key_scale is of another type");
  ExpectJsonError(good, "\"rope_theta\"", "\"route_from\": \"ahead\", \"rope_theta\"",
                  "'slow_rate' is missing");
  ExpectJsonError(good, "\"rope_theta\"", "\"slow_rate\": 0, \"rope_theta\"", "'route_from' is missing");
  ExpectJsonError(good, "\"rope_theta\"", "\"route_from\": \"back\", \"rope_theta\"",
                  "\"token\", \"ahead\" or \"address\"");
  ExpectJsonError(good, "-5.0", "-1e300", "decay_floor is -1e+300");
  ExpectJsonError(good, "\"tiny\"", "7", "preset is of another type");
  ExpectJsonError(good, "\"lattice\": [", "\"lattice\": [1,", "lattice is of another type");
  ExpectJsonError(good, "}", "", "not JSON");
  EXPECT_THAT(ConfigFromJson("[1, 2]").status().message(), HasSubstr("not a JSON object"));
  EXPECT_FALSE(ConfigFromJson("").ok());
  EXPECT_FALSE(ConfigFromJson(std::string(100000, '[')).ok());
  ExpectJsonError(good, "\"tiny\"", std::string(9, '[') + std::string(9, ']'), "nests deeper than 8 levels");
  ExpectJsonError(good, "\"window\": 16", "\"window\": 16, \"\\n\\u001b[2J\": 1",
                  "unknown key '\\n\\x1b[2J'");
}

}  // namespace
}  // namespace omni
