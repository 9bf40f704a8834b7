// Routing traces: that drawn ones follow their distribution and are the same everywhere, and what the format
// refuses.
#include "store/cache/routing_trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>

#include "store/file/hash.h"
#include "store/format/torus.h"
#include "tests/testing/temp_dir.h"

namespace omni {
namespace {

using ::testing::HasSubstr;

TEST(Torus, DistancesGoTheShorterWayRound) {
  const ModelConfig config = *Preset("tiny");  // 8 x 4 x 4
  EXPECT_EQ(TorusDistance(config, 0, 0), 0);
  EXPECT_EQ(TorusDistance(config, 0, 7), 1);
  EXPECT_EQ(TorusDistance(config, 7, 0), 1);
  EXPECT_EQ(TorusDistance(config, 0, 8 * 3), 1);
  EXPECT_EQ(TorusDistance(config, 0, 4 + 8 * 2 + 32 * 2), 8);
  EXPECT_EQ(TorusOffset(config, 7, 0), 1);
  EXPECT_EQ(TorusOffset(config, 5 + 32, 5 + 32), 0);
  std::array<int, 9> at = {};
  for (int64_t e = 0; e < 128; ++e) ++at[static_cast<size_t>(TorusDistance(config, 37, e))];
  EXPECT_EQ(at[0], 1);
  EXPECT_EQ(at[1], 6);
  EXPECT_EQ(at[2], 16);
}

TEST(DrawTrace, FollowsTheDistribution) {
  const ModelConfig config = *Preset("tiny");
  const RoutingTrace trace = DrawTrace(config, 20000, 3);
  ASSERT_EQ(trace.tokens(), 20000);
  ASSERT_EQ(trace.layers, (std::vector<int64_t>{0, 1, 2}));
  std::array<double, 4> classes = {};
  std::vector<double> offsets(128);
  double steps = 0;
  for (int64_t t = 1; t < trace.tokens(); ++t) {
    for (int64_t p = 0; p < trace.places(); ++p, ++steps) {
      const int64_t from = trace.At(t - 1, p), to = trace.At(t, p);
      ++classes[static_cast<size_t>(std::min<int64_t>(3, TorusDistance(config, from, to)))];
      ++offsets[static_cast<size_t>(TorusOffset(config, from, to))];
    }
  }
  constexpr double kShare[] = {0.30, 0.40, 0.15, 0.15};
  constexpr double kMembers[] = {1, 6, 16, 105};
  const auto within = [&](double count, double share) {  // five standard deviations
    EXPECT_NEAR(count, share * steps, 5 * std::sqrt(share * (1 - share) * steps));
  };
  for (size_t c = 0; c < 4; ++c) within(classes[c], kShare[c]);
  for (int64_t o = 0; o < 128; ++o) {
    const auto c = static_cast<size_t>(std::min<int64_t>(3, TorusDistance(config, 0, o)));
    within(offsets[static_cast<size_t>(o)], kShare[c] / kMembers[c]);
  }
}

TEST(DrawTrace, IsTheSameOnEveryMachine) {
  const ModelConfig config = *Preset("tiny");
  EXPECT_EQ(ContentHash(FormatTrace(DrawTrace(config, 100, 1))).Hex(), "d6b8c75edfd03a5e6fbe60c7de10a71f");
  EXPECT_EQ(DrawTrace(config, 100, 1), DrawTrace(config, 100, 1));
  EXPECT_NE(DrawTrace(config, 100, 1), DrawTrace(config, 100, 2));
}

TEST(DrawTrace, StaysOnASmallLattice) {
  ModelConfig config = *Preset("tiny");
  config.lattice = {2, 1, 1};
  config.region = {1, 1, 1};
  const RoutingTrace trace = DrawTrace(config, 1000, 1);
  for (uint16_t e : trace.experts) ASSERT_LT(e, 2);
}

TEST(TraceFormat, ComesBackAsItWas) {
  testing::TempDir dir;
  const std::string path = dir / "walk.routes";
  const RoutingTrace trace = DrawTrace(*Preset("tiny"), 50, 1);
  ASSERT_TRUE(SaveTrace(trace, path).ok());
  const auto loaded = LoadTrace(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(*loaded, trace);
  EXPECT_TRUE(CheckTrace(*loaded, *Preset("tiny"), path).ok());
  EXPECT_THAT(std::string(CheckTrace(*loaded, *Preset("mini"), path).message()), HasSubstr("expert layers"));
  EXPECT_FALSE(LoadTrace(dir / "none").ok());
  EXPECT_FALSE(SaveTrace(trace, dir / "no/such/file").ok());
}

TEST(TraceFormat, IsAsDocumented) {
  const auto trace = ParseTrace("omni-routes 1\nlattice 8 4 4\nlayers 0 2\n127 0\n5 6\n", "x");
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->tokens(), 2);
  EXPECT_EQ(trace->At(0, 0), 127);
  EXPECT_EQ(trace->At(1, 1), 6);
}

TEST(TraceFormat, RefusesWithTheLineThatIsWrong) {
  const std::string head = "omni-routes 1\nlattice 8 4 4\nlayers 0 2\n";
  const struct {
    std::string text, error;
  } cases[] = {
      {"", "x:1: should be 'omni-routes 1'"},
      {"omni-routes 2\n", "x:1: "},
      {"omni-routes 1\n", "x:1: ends here"},
      {"omni-routes 1\nedges 8 4 4\n", "x:2: should begin with 'lattice '"},
      {"omni-routes 1\nlattice 8 4\n", "x:2: should have three edges"},
      {"omni-routes 1\nlattice 8 4 0\n", "x:2: '0' is no number from 1"},
      {"omni-routes 1\nlattice 65536 65536 65536\n", "x:2: should have three edges"},
      {"omni-routes 1\nlattice 8 4 4\n", "x:2: ends here"},
      {"omni-routes 1\nlattice 8 4 4\nlayers 2 2\n", "x:3: layers should ascend"},
      {"omni-routes 1\nlattice 8 4 4\nlayers \n", "x:3: '' is no number"},
      {head + "1 2\n1 128\n", "x:5: '128' is no number from 0 to 127"},
      {head + "1 2\n\n", "x:5: '' is no number"},
      {head + "1 2\n1\n", "x:5: has 1 experts, should have 2"},
      {head + "1 2 3\n", "x:4: has 3 experts, should have 2"},
      {head + "1  2\n", "x:4: '' is no number"},
      {head + "1 02\n", "x:4: '02' is no number"},
      {head + "1 -2\n", "x:4: '-2' is no number"},
      {head + "1 2 \n", "x:4: '' is no number"},
      {head + "1 2\r\n", "x:4: '2\\r' is no number"},
      {head + "1 99999999999999999999\n", "x:4: '99999999999999999999' is no number"},
      {head + "1 2\n3 4", "x:5: the line is cut off"},
  };
  for (const auto& c : cases) {
    const auto trace = ParseTrace(c.text, "x");
    ASSERT_FALSE(trace.ok()) << c.text;
    const std::string message(trace.status().message());
    EXPECT_THAT(message, HasSubstr(c.error)) << c.text;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

}  // namespace
}  // namespace omni
