#include "engine/model/session_state.h"

#include <cstring>
#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include "tests/testing/random_model.h"

namespace omni {
namespace {

SessionState Filled(const ModelConfig& config) {
  SessionState state(config);
  testing::Random random(3);
  for (int64_t l = 0; l < config.layers; ++l) {
    const LayerId layer(static_cast<int32_t>(l));
    if (config.IsAttention(l)) {
      for (int64_t i = 0; i < config.kv_heads * config.window * config.head_dim(); ++i) {
        state.keys(layer)[i] = static_cast<uint16_t>(random.Next());
        state.values(layer)[i] = static_cast<uint16_t>(random.Next());
      }
    } else {
      for (int64_t i = 0; i < config.d * config.r; ++i) state.pdr(layer)[i] = random.Normal();
      for (int64_t i = 0; config.has_slow_state() && i < config.d; ++i)
        state.slow(layer)[i] = random.Normal();
    }
  }
  state.set_position(12345);
  return state;
}

// Sets the checksum right again, as an attacker or a writer's bug would.
std::string Resealed(std::string bytes) {
  const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size() - 8);
  std::memcpy(bytes.data() + bytes.size() - 8, &checksum, 8);
  return bytes;
}

TEST(SessionStateTest, HoldsEveryLayerApart) {
  const ModelConfig config = testing::OddConfig();
  SessionState state(config);
  EXPECT_EQ(state.bytes(), 4 * 4 * 100 * 12 + 1 * 2 * 2 * 7 * 50);
  EXPECT_EQ(state.pdr(LayerId(1)) - state.pdr(LayerId(0)), 1200);
  EXPECT_EQ(state.pdr(LayerId(4)) - state.pdr(LayerId(2)), 1200);  // layer 3 is attention
  EXPECT_EQ(state.values(LayerId(3)) - state.keys(LayerId(3)), 350);
  SessionState slow(testing::AheadConfig());
  EXPECT_EQ(slow.bytes(), state.bytes() + 4 * 4 * 100);
  EXPECT_EQ(SessionState::BytesFor(testing::AheadConfig()), slow.bytes());
  EXPECT_EQ(slow.slow(LayerId(4)) - slow.slow(LayerId(2)), 100);
}

TEST(SessionStateTest, SaveAndRestoreKeepEveryByte) {
  for (const ModelConfig& config : {testing::TinyConfig(), testing::OddConfig(), testing::AheadConfig()}) {
    const std::string bytes = Filled(config).Save();
    const auto restored = SessionState::Restore(config, bytes);
    ASSERT_TRUE(restored.ok()) << restored.status();
    EXPECT_EQ(restored->position(), 12345);
    EXPECT_EQ(restored->Save(), bytes);
  }
}

TEST(SessionStateTest, RestoreRejectsEveryFlippedBitOfTheHeadAndSamplesOfTheRest) {
  const ModelConfig config = testing::OddConfig();
  const std::string bytes = Filled(config).Save();
  for (size_t byte = 0; byte < bytes.size(); byte += byte < 64 ? 1 : 97) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string altered = bytes;
      altered[byte] = static_cast<char>(altered[byte] ^ (1 << bit));
      EXPECT_FALSE(SessionState::Restore(config, altered).ok()) << "byte " << byte << " bit " << bit;
    }
  }
}

TEST(SessionStateTest, RestoreRejectsCutAndExtendedBytes) {
  const ModelConfig config = testing::OddConfig();
  const std::string bytes = Filled(config).Save();
  for (size_t size :
       {size_t{0}, size_t{7}, size_t{48}, size_t{55}, size_t{56}, bytes.size() / 2, bytes.size() - 1}) {
    EXPECT_FALSE(SessionState::Restore(config, bytes.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(SessionState::Restore(config, bytes + '\0').ok());
  EXPECT_FALSE(SessionState::Restore(config, Resealed(bytes + "1234")).ok());
  EXPECT_FALSE(SessionState::Restore(config, Resealed(bytes.substr(0, bytes.size() - 4))).ok());
}

TEST(SessionStateTest, RestoreRejectsForgedFieldsUnderAValidChecksum) {
  const ModelConfig config = testing::OddConfig();
  const std::string bytes = Filled(config).Save();
  const auto forged = [&](size_t offset, uint64_t value, size_t size) {
    std::string altered = bytes;
    std::memcpy(altered.data() + offset, &value, size);
    return SessionState::Restore(config, Resealed(altered)).status();
  };
  EXPECT_THAT(forged(8, 3, 4).message(), ::testing::HasSubstr("version 3"));
  EXPECT_FALSE(forged(8, 2, 4).ok());  // of a model with a slow state
  EXPECT_FALSE(forged(12, 1, 4).ok());
  EXPECT_THAT(forged(16, 1, 8).message(), ::testing::HasSubstr("another configuration"));
  EXPECT_FALSE(forged(24, ~uint64_t{0}, 8).ok());  // position -1
  EXPECT_FALSE(forged(24, uint64_t{1} << 60, 8).ok());
  EXPECT_FALSE(forged(32, 0, 8).ok());
  EXPECT_FALSE(forged(40, ~uint64_t{0}, 8).ok());
  EXPECT_TRUE(forged(24, 99, 8).ok());
}

TEST(SessionStateTest, RestoreMakesNoStateForBytesItRefuses) {
  ModelConfig huge = testing::TinyConfig();
  huge.d = huge.r = 65536;  // 52 GB of state
  ASSERT_TRUE(Validate(huge).ok());
  EXPECT_FALSE(SessionState::Restore(huge, "").ok());
  EXPECT_FALSE(SessionState::Restore(huge, SessionState(testing::TinyConfig()).Save()).ok());
}

TEST(SessionStateTest, BelongsToOneConfiguration) {
  const ModelConfig config = testing::OddConfig();
  const SessionState state = Filled(config);
  EXPECT_TRUE(state.Fits(config));
  const std::string bytes = state.Save();
  const std::function<void(ModelConfig&)> changes[] = {
      [](ModelConfig& c) { c.layers = 4; },           [](ModelConfig& c) { c.r = 24; },
      [](ModelConfig& c) { c.key_scale = false; },    [](ModelConfig& c) { c.readout_norm = false; },
      [](ModelConfig& c) { c.decay_floor = -4; },     [](ModelConfig& c) { c.rope_theta = 20000; },
      [](ModelConfig& c) { c.attention_period = 5; }, [](ModelConfig& c) { c.state_norm_period = 16; },
      [](ModelConfig& c) { c.kv_heads = 2; },         [](ModelConfig& c) { c.window = 14; }};
  for (const auto& change : changes) {
    ModelConfig other = config;
    change(other);
    EXPECT_FALSE(state.Fits(other));
    EXPECT_FALSE(SessionState::Restore(other, bytes).ok());
  }
  ModelConfig slow = testing::AheadConfig();
  EXPECT_FALSE(state.Fits(slow));
  EXPECT_FALSE(SessionState::Restore(slow, bytes).ok());
  const std::string slow_bytes = Filled(slow).Save();
  EXPECT_FALSE(SessionState::Restore(config, slow_bytes).ok());
  EXPECT_TRUE(SessionState::Restore(slow, slow_bytes).ok());
  slow.slow_rate = 0.25f;
  EXPECT_FALSE(SessionState::Restore(slow, slow_bytes).ok());
  ModelConfig same = config;
  same.preset = "renamed";
  EXPECT_TRUE(SessionState::Restore(same, bytes).ok());
}

}  // namespace
}  // namespace omni
