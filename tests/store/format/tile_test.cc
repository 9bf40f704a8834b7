#include "store/format/tile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace omni {
namespace {

using ::testing::HasSubstr;

// Trit of `row` at `column` in a ternary matrix laid out in groups of 5 rows, as the format describes it.
int TritAt(const std::string& bytes, int64_t begin, int64_t group_stride, int64_t row, int64_t column) {
  int code = static_cast<uint8_t>(bytes[static_cast<size_t>(begin + row / 5 * group_stride + column)]);
  for (int64_t i = 0; i < row % 5; ++i) code /= 3;
  return code % 3 - 1;
}

TEST(TileBuilder, PutsEveryTritAndScaleWhereTheLayoutSays) {
  constexpr int64_t kWidth = 67;
  const TileLayout layout(kWidth);
  TileBuilder builder(kWidth);
  const auto trit = [](int64_t part, int64_t n, int64_t i) {
    return static_cast<int>((part + 3 * n + 7 * i) % 3) - 1;
  };
  constexpr int64_t kSet = 50;
  for (int64_t n = 0; n < kSet; ++n) {
    std::vector<int8_t> rows[3];
    for (int64_t part = 0; part < 3; ++part) {
      for (int64_t i = 0; i < kWidth; ++i) rows[part].push_back(static_cast<int8_t>(trit(part, n, i)));
    }
    builder.SetNeuron(n, rows[0].data(), rows[1].data(), rows[2].data(), 1.0f + static_cast<float>(n),
                      -1.0f - static_cast<float>(n));
  }
  const std::string& bytes = builder.bytes();
  ASSERT_EQ(static_cast<int64_t>(bytes.size()), layout.payload());
  for (int64_t n = 0; n < kTileNeurons; ++n) {
    for (int64_t i = 0; i < layout.d_pad; ++i) {
      const bool set = n < kSet && i < kWidth;
      EXPECT_EQ(TritAt(bytes, 0, layout.d_pad, 2 * n, i), set ? trit(0, n, i) : 0) << n << " " << i;
      EXPECT_EQ(TritAt(bytes, 0, layout.d_pad, 2 * n + 1, i), set ? trit(1, n, i) : 0) << n << " " << i;
      if (i >= 5 * layout.down_groups()) continue;
      EXPECT_EQ(TritAt(bytes, layout.down_offset(), 64, i, n), set ? trit(2, n, i) : 0) << n << " " << i;
    }
    float scales[2];
    std::memcpy(&scales[0], bytes.data() + layout.gate_scale_offset() + 4 * n, 4);
    std::memcpy(&scales[1], bytes.data() + layout.up_scale_offset() + 4 * n, 4);
    EXPECT_EQ(scales[0], n < kSet ? 1.0f + static_cast<float>(n) : 0.0f);
    EXPECT_EQ(scales[1], n < kSet ? -1.0f - static_cast<float>(n) : 0.0f);
  }
  EXPECT_TRUE(CheckTile(layout, reinterpret_cast<const uint8_t*>(bytes.data())).ok());
}

TEST(TileBuilder, ClearForgetsTheLastTile) {
  TileBuilder fresh(64), used(64);
  const std::vector<int8_t> ones(64, 1);
  used.SetNeuron(3, ones.data(), ones.data(), ones.data(), 1.0f, 1.0f);
  EXPECT_NE(used.bytes(), fresh.bytes());
  used.Clear();
  EXPECT_EQ(used.bytes(), fresh.bytes());
}

const uint8_t* Raw(const std::string& s) { return reinterpret_cast<const uint8_t*>(s.data()); }

TEST(PackHeader, ComesBackAsItWasWritten) {
  PackHeader h = PackHeader::For(3008, 4096);
  h.count = 7;
  EXPECT_EQ(h.stride, 4096);
  EXPECT_EQ(h.first_offset, 4096);
  EXPECT_EQ(h.file_bytes(), 8 * 4096);
  const std::string bytes = h.Encode();
  ASSERT_EQ(bytes.size(), 64u);
  const auto back = PackHeader::Parse("p", Raw(bytes), 3008);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->Encode(), bytes);
}

TEST(PackHeader, RejectsEveryFlippedBit) {
  PackHeader h = PackHeader::For(3008, 64);
  h.count = 7;
  const std::string good = h.Encode();
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    EXPECT_FALSE(PackHeader::Parse("p", Raw(bad), 3008).ok()) << "bit " << bit;
  }
}

TEST(PackHeader, RejectsTilesOfAnotherShape) {
  const std::string bytes = PackHeader::For(3008, 64).Encode();
  const auto parsed = PackHeader::Parse("packs/x.bin", Raw(bytes), 6016);
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("packs/x.bin"));
}

}  // namespace
}  // namespace omni
