#include "store/manifest.h"

#include <absl/strings/str_replace.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/checkpoint_fixture.h"

namespace omni {
namespace {

using ::testing::HasSubstr;

Manifest Example() {
  Manifest m;
  m.config = testing::SmallConfig();
  m.counts.tile_alignment = 64;
  m.files["shared.bin"] = {1000, {1, 2}};
  m.files["packs/tiles-000.bin"] = {2000, {3, 0xabcdef}};
  m.delta_digest = {5, 6};
  m.delta_keys = 24;
  return m;
}

std::string MessageOf(const std::string& text) {
  return std::string(Manifest::Parse("m/model.json", text).status().message());
}

TEST(Manifest, ComesBackAsItWasWritten) {
  const std::string text = Example().Encode();
  const auto back = Manifest::Parse("m/model.json", text);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->Encode(), text);
  EXPECT_EQ(back->config, Example().config);
  EXPECT_EQ(back->files.at("packs/tiles-000.bin").hash, (Hash128{3, 0xabcdef}));
}

TEST(Manifest, RejectsEveryFlippedBitAndEveryCut) {
  const std::string good = Example().Encode();
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    ASSERT_FALSE(Manifest::Parse("m", bad).ok()) << "bit " << bit;
  }
  for (size_t n = 0; n < good.size(); ++n) ASSERT_FALSE(Manifest::Parse("m", good.substr(0, n)).ok()) << n;
}

TEST(Manifest, SaysWhichVersionItCannotRead) {
  const std::string text = absl::StrReplaceAll(Example().Encode(), {{"\"version\": 1", "\"version\": 7"}});
  EXPECT_THAT(MessageOf(text), HasSubstr("m/model.json: format version 7, this program reads 1"));
}

TEST(Manifest, SaysWhenItIsSomethingElse) {
  EXPECT_THAT(MessageOf("hello"), HasSubstr("not a JSON object"));
  EXPECT_THAT(MessageOf("{}"), HasSubstr("not a packed model"));
  EXPECT_THAT(MessageOf(std::string(100000, '[')), HasSubstr("not a JSON object"));
}

TEST(Manifest, ModelHashCoversConfigFilesAndDeltasButNotCounts) {
  const Hash128 hash = Example().ModelHash();
  Manifest m = Example();
  m.counts.stored_tiles = 5;
  EXPECT_EQ(m.ModelHash(), hash);
  m = Example();
  m.config.rope_theta = 10001.0;
  EXPECT_NE(m.ModelHash(), hash);
  m = Example();
  m.files["shared.bin"].hash.low ^= 1;
  EXPECT_NE(m.ModelHash(), hash);
  m = Example();
  m.delta_digest.high ^= 1;
  EXPECT_NE(m.ModelHash(), hash);
}

TEST(Manifest, RejectsNamesThatLeaveTheDirectory) {
  for (const char* name : {"../shared.bin", "/etc/passwd", "packs/../../x"}) {
    Manifest m = Example();
    m.files[name] = {1, {1, 1}};
    EXPECT_THAT(MessageOf(m.Encode()), HasSubstr("\"files\" is malformed")) << name;
  }
}

TEST(DeltaManifest, ComesBackAsItWasWrittenAndRejectsEveryFlippedBit) {
  DeltaManifest m;
  m.files["deltas/CURRENT"] = {16, {1, 2}};
  m.delta_digest = {5, 6};
  const std::string good = m.Encode();
  const auto back = DeltaManifest::Parse("d", good);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->Encode(), good);
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    ASSERT_FALSE(DeltaManifest::Parse("d", bad).ok()) << "bit " << bit;
  }
}

}  // namespace
}  // namespace omni
