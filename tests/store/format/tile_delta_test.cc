#include "store/format/tile_delta.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/testing/random_model.h"

namespace omni {
namespace {

using testing::Random;

uint8_t* Raw(std::string& s) { return reinterpret_cast<uint8_t*>(s.data()); }
const uint8_t* Raw(const std::string& s) { return reinterpret_cast<const uint8_t*>(s.data()); }

std::string RandomTile(const TileLayout& layout, Random& random) {
  std::string tile(static_cast<size_t>(layout.payload()), '\0');
  for (int64_t i = 0; i < layout.gate_scale_offset(); ++i) {
    tile[static_cast<size_t>(i)] = static_cast<char>(random.Below(243));
  }
  for (int64_t i = 0; i < 2 * kTileNeurons; ++i) {
    const float scale = random.Uniform(0.0f, 1.0f);
    std::memcpy(tile.data() + layout.gate_scale_offset() + 4 * i, &scale, 4);
  }
  return tile;
}

// Changes `count` bytes' codes, and `scales` scales.
std::string Changed(const TileLayout& layout, std::string tile, int64_t count, int64_t scales,
                    Random& random) {
  for (int64_t i = 0; i < count; ++i) {
    tile[static_cast<size_t>(random.Below(layout.gate_scale_offset()))] =
        static_cast<char>(random.Below(243));
  }
  for (int64_t i = 0; i < scales; ++i) {
    const float scale = random.Uniform(0.0f, 1.0f);
    std::memcpy(tile.data() + layout.gate_scale_offset() + 4 * random.Below(2 * kTileNeurons), &scale, 4);
  }
  return tile;
}

TEST(TileDelta, TurnsTheBaseIntoTheTileWhateverChanged) {
  Random random(1);
  for (const int64_t width : {64, 70, 130}) {
    const TileLayout layout(width);
    for (const int64_t count : {0, 1, 2, 17, 300, 100000}) {
      for (const int64_t scales : {0, 1, 1000}) {
        const std::string base = RandomTile(layout, random);
        const std::string tile = Changed(layout, base, count, scales, random);
        const std::string delta = EncodeTileDelta(layout, Raw(base), Raw(tile));
        std::string got = base;
        ASSERT_TRUE(ApplyTileDelta(layout, delta, Raw(got)).ok());
        ASSERT_EQ(got, tile) << width << " " << count << " " << scales;
      }
    }
  }
}

TEST(TileDelta, CodesTheFirstAndTheLastTrit) {
  const TileLayout layout(64);
  Random random(2);
  std::string base = RandomTile(layout, random);
  const size_t last = static_cast<size_t>(layout.gate_scale_offset()) - 1;
  base[0] = 0, base[last] = 0;
  std::string tile = base;
  tile[0] = 1, tile[last] = static_cast<char>(2 * 81);
  std::string got = base;
  ASSERT_TRUE(ApplyTileDelta(layout, EncodeTileDelta(layout, Raw(base), Raw(tile)), Raw(got)).ok());
  EXPECT_EQ(got, tile);
}

TEST(TileDelta, IsSmallWhereLittleChanged) {
  const TileLayout layout(256);
  Random random(3);
  const std::string base = RandomTile(layout, random);
  EXPECT_EQ(EncodeTileDelta(layout, Raw(base), Raw(base)).size(), 6u);
  const std::string tile = Changed(layout, base, 20, 0, random);
  EXPECT_LT(EncodeTileDelta(layout, Raw(base), Raw(tile)).size(), 160u);
}

TEST(TileDelta, RejectsCutBytes) {
  const TileLayout layout(64);
  Random random(4);
  const std::string base = RandomTile(layout, random);
  const std::string delta = EncodeTileDelta(layout, Raw(base), Raw(Changed(layout, base, 30, 5, random)));
  for (size_t n = 0; n < delta.size(); ++n) {
    std::string got = base;
    EXPECT_FALSE(ApplyTileDelta(layout, delta.substr(0, n), Raw(got)).ok()) << n;
  }
  std::string got = base;
  EXPECT_FALSE(ApplyTileDelta(layout, delta + '\0', Raw(got)).ok());
}

// Whatever the bytes, the tile stays within its codes and nothing outside it is touched (a sanitizer's job to
// see).
TEST(TileDelta, AlteredBytesNeverMakeAnInvalidCode) {
  const TileLayout layout(64);
  Random random(5);
  const std::string base = RandomTile(layout, random);
  const std::string delta = EncodeTileDelta(layout, Raw(base), Raw(Changed(layout, base, 30, 5, random)));
  for (int trial = 0; trial < 2000; ++trial) {
    std::string bad = delta;
    for (int64_t n = 1 + random.Below(4); n > 0; --n) {
      bad[static_cast<size_t>(random.Below(static_cast<int64_t>(bad.size())))] =
          static_cast<char>(random.Next());
    }
    std::string got = base;
    (void)ApplyTileDelta(layout, bad, Raw(got));
    for (int64_t i = 0; i < layout.gate_scale_offset(); ++i) ASSERT_LE(Raw(got)[i], 242);
  }
}

}  // namespace
}  // namespace omni
