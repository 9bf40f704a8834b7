#include "actors/session_snapshot.h"

#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include "tests/actors/testing.h"

namespace omni {
namespace {

using omni::testing::TinyModel;
using ::testing::HasSubstr;

constexpr char kHash[] = "0123456789abcdef0123456789abcdef";

SessionSnapshot Example(const ModelConfig& config) {
  SessionSnapshot snapshot{{}, {}, 2, SessionState(config)};
  for (int32_t id : {3, 1, 4, 1, 5}) snapshot.tokens.push_back(TokenId(id));
  snapshot.state.set_position(4);
  snapshot.state.pdr(LayerId(0))[7] = 0.1f;
  snapshot.request.max_tokens = 9;
  snapshot.request.stops = {"\n\n", std::string("\xff\0x", 3)};
  snapshot.request.stop_at_end_of_text = false;
  snapshot.request.keep = true;
  snapshot.request.alternatives = 15;
  snapshot.request.routes = true;
  snapshot.request.sampler = {0.7f, 11, 0.9f, 0.01f, 1.1f, 32, 0xfedcba9876543210u};
  return snapshot;
}

std::string Resealed(std::string bytes) {
  bytes.resize(bytes.size() - 8);
  const uint64_t sum = XXH3_64bits(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(&sum), sizeof sum);
  return bytes;
}

class SnapshotTest : public ::testing::Test {
 protected:
  absl::Status Restored(const std::string& bytes, std::string_view hash = kHash) {
    return SessionSnapshot::Restore(config_, hash, bytes).status();
  }
  ModelConfig config_ = omni::testing::TinyConfig();
  const std::string bytes_ = Example(config_).Save(kHash);
};

TEST_F(SnapshotTest, SaveAndRestoreKeepAllOfIt) {
  const auto restored = SessionSnapshot::Restore(config_, kHash, bytes_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  const SessionSnapshot want = Example(config_);
  EXPECT_EQ(restored->tokens, want.tokens);
  EXPECT_EQ(restored->generated, 2);
  EXPECT_EQ(restored->request.max_tokens, 9);
  EXPECT_EQ(restored->request.stops, want.request.stops);
  EXPECT_FALSE(restored->request.stop_at_end_of_text);
  EXPECT_TRUE(restored->request.keep);
  EXPECT_EQ(restored->request.alternatives, 15);
  EXPECT_TRUE(restored->request.routes);
  EXPECT_EQ(restored->request.sampler.temperature, 0.7f);
  EXPECT_EQ(restored->request.sampler.top_k, 11);
  EXPECT_EQ(restored->request.sampler.top_p, 0.9f);
  EXPECT_EQ(restored->request.sampler.min_p, 0.01f);
  EXPECT_EQ(restored->request.sampler.repetition_penalty, 1.1f);
  EXPECT_EQ(restored->request.sampler.repetition_window, 32);
  EXPECT_EQ(restored->request.sampler.seed, 0xfedcba9876543210u);
  EXPECT_EQ(restored->state.Save(), want.state.Save());
  EXPECT_EQ(restored->Save(kHash), bytes_);
}

TEST_F(SnapshotTest, RefusesAnotherModelsSession) {
  const absl::Status s = Restored(bytes_, "ffffffffffffffffffffffffffffffff");
  EXPECT_EQ(s.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(s.message()), HasSubstr(kHash));
}

TEST_F(SnapshotTest, RefusesEveryCutAndEveryFlippedByteOfTheHead) {
  for (size_t size = 0; size < 700; ++size) EXPECT_FALSE(Restored(bytes_.substr(0, size)).ok()) << size;
  EXPECT_FALSE(Restored(bytes_.substr(0, bytes_.size() - 1)).ok());
  EXPECT_FALSE(Restored(bytes_ + "x").ok());
  for (size_t i = 0; i < 700; ++i) {
    std::string altered = bytes_;
    altered[i] ^= 0x20;
    EXPECT_FALSE(Restored(altered).ok()) << i;
  }
}

TEST_F(SnapshotTest, BytesOfBeforeAlternativesAndRoutesMeanNone) {
  std::string older = bytes_;
  for (const auto& [from, to] : {std::pair("\"alternatives\":15,", "                  "),
                                 std::pair("\"routes\":true,", "              ")}) {
    const size_t at = older.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    ASSERT_EQ(std::string(from).size(), std::string(to).size()) << from;
    older.replace(at, std::string(to).size(), to);
  }
  const auto restored = SessionSnapshot::Restore(config_, kHash, Resealed(older));
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->request.alternatives, 0);
  EXPECT_FALSE(restored->request.routes);
}

TEST_F(SnapshotTest, RefusesForgedSettingsUnderAValidChecksum) {
  const std::pair<const char*, const char*> forgeries[] = {
      {"\"generated\":2", "\"generated\":5"},    // all of the tokens: there was no prompt
      {"\"tokens\":[3,1", "\"tokens\":[3,-"},    // not JSON
      {"[3,1,4,1,5]", "[3,1,4,1]  "},            // the state has seen more
      {"\"max_tokens\":9", "\"max_tokens\":0"},  //
      {"\"alternatives\":15", "\"alternatives\":25"},
      {"\"routes\":true", "\"routes\":null"},
      {"\"top_k\":11", "\"top_k\":\"\""},  // of another kind
      {"\"seed\":", "\"sead\":"},          // missing
      {"\"0a0a\"", "\"0A0A\""},            // not our hex
  };
  for (const auto& [from, to] : forgeries) {
    std::string forged = bytes_;
    const size_t at = forged.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    ASSERT_EQ(std::string(from).size(), std::string(to).size()) << from;
    forged.replace(at, std::string(to).size(), to);
    EXPECT_FALSE(Restored(Resealed(forged)).ok()) << from;
  }
}

}  // namespace
}  // namespace omni
