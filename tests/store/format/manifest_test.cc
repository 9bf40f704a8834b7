#include "store/format/manifest.h"

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
  EXPECT_THAT(MessageOf(text), HasSubstr("m/model.json: format version 7, this program reads up to 2"));
}

TEST(Manifest, IsOfTheVersionThatItsConfigNeeds) {
  Manifest m = Example();
  const std::string plain = m.Encode();
  EXPECT_THAT(plain, HasSubstr("\"version\": 1"));
  m.config.route_from = RouteFrom::kAhead, m.config.slow_rate = 0.5f;
  const std::string text = m.Encode();
  EXPECT_THAT(text, HasSubstr("\"version\": 2"));
  EXPECT_NE(m.ModelHash(), Example().ModelHash());
  const auto back = Manifest::Parse("m", text);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->config, m.config);
}

TEST(Manifest, SaysWhenItIsSomethingElse) {
  EXPECT_THAT(MessageOf("hello"), HasSubstr("the text is not JSON"));
  EXPECT_THAT(MessageOf("[]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(MessageOf("{}"), HasSubstr("not a packed model"));
  EXPECT_THAT(MessageOf(std::string(100000, '[')), HasSubstr("nests deeper than 8 levels"));
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
  const std::string long_name(256, 'x');
  for (const std::string& name :
       {std::string("../shared.bin"), std::string("/etc/passwd"), std::string("packs/../../x"), std::string(),
        std::string("a\nb"), std::string("a\x1b[2J"), std::string("a\0b", 3), long_name}) {
    Manifest m = Example();
    m.files[name] = {1, {1, 1}};
    EXPECT_THAT(MessageOf(m.Encode()), HasSubstr("\"files\" is malformed")) << name;
  }
}

// Sets the checksum right again after `from` became `to`.
std::string Forged(std::string text, const std::string& from, const std::string& to) {
  const std::string field = "\"checksum\": \"", zeros(32, '0');
  text.replace(text.find(from), from.size(), to);
  const size_t at = text.find(field) + field.size();
  text.replace(at, zeros.size(), zeros);
  return text.replace(at, zeros.size(), ContentHash(text).Hex());
}

TEST(Manifest, RejectsWhatItWouldNotWriteThoughTheChecksumHolds) {
  const std::string good = Example().Encode();
  ASSERT_TRUE(Manifest::Parse("m", Forged(good, "\n", "\n")).ok());
  for (const auto& [from, to] : {std::pair("\n", " "), std::pair("\"config\"", "\"comment\": 1, \"config\""),
                                 std::pair("\"keys\": 24", "\"keys\": 24, \"more\": []")}) {
    EXPECT_THAT(MessageOf(Forged(good, from, to)), HasSubstr("not written as this program writes it")) << to;
  }
  EXPECT_THAT(MessageOf(Forged(good, "\"keys\": 24", "\"keys\": 24, \"keys\": 24")),
              HasSubstr("'keys' twice"));
  const std::string deltas = DeltaManifest().Encode();
  ASSERT_TRUE(DeltaManifest::Parse("d", deltas).ok());
  EXPECT_FALSE(DeltaManifest::Parse("d", Forged(deltas, "\n", " ")).ok());
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
