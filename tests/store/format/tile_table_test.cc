#include "store/format/tile_table.h"

#include <gtest/gtest.h>

namespace omni {
namespace {

TileRef Ref(uint64_t n) { return {{n, n + 1}, static_cast<uint32_t>(n % 3), 64 * n, n * 1000003}; }

TileTable DeltaTable() {
  TileTable table;
  table.changes.push_back({1, false, Ref(5), ""});
  TileChange scattered{4, true, {}, "abc"};
  scattered.ref.hash = {7, 8};
  scattered.ref.checksum = 9;
  table.changes.push_back(scattered);
  return table;
}

TEST(TileTable, KeysSortByLayerThenExpert) {
  EXPECT_LT(TableKey(LayerId(0), ExpertId(300)), TableKey(LayerId(1), ExpertId(0)));
  EXPECT_LT(TableKey(LayerId(2), ExpertId(255)), TableKey(LayerId(2), ExpertId(256)));
  LayerId layer;
  ExpertId expert;
  ASSERT_TRUE(ParseTableKey(TableKey(LayerId(70000), ExpertId(129)), &layer, &expert));
  EXPECT_EQ(layer, LayerId(70000));
  EXPECT_EQ(expert, ExpertId(129));
  EXPECT_FALSE(ParseTableKey("1234567", &layer, &expert));
  EXPECT_FALSE(ParseTableKey("\xff\xff\xff\xff\xff\xff\xff\xff", &layer, &expert));
}

TEST(TileTable, WholeTableComesBackAsItWasWritten) {
  TileTable table;
  table.whole = true;
  for (uint64_t i = 0; i < 6; ++i) table.tiles.push_back(Ref(i));
  const std::string bytes = EncodeTable(table);
  EXPECT_EQ(static_cast<int64_t>(bytes.size()), kWholeTableBytes + 6 * kReferenceBytes);
  const auto back = DecodeTable(bytes, 6);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(back->whole);
  EXPECT_EQ(back->tiles, table.tiles);
  EXPECT_FALSE(DecodeTable(bytes, 7).ok());
  EXPECT_FALSE(DecodeTable(bytes, 5).ok());
}

TEST(TileTable, DeltaTableComesBackAsItWasWritten) {
  const std::string bytes = EncodeTable(DeltaTable());
  EXPECT_EQ(static_cast<int64_t>(bytes.size()),
            5 + kChangeBytes + kReferenceBytes + kChangeBytes + kInlineBytes + 3);
  const auto back = DecodeTable(bytes, 6);
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->changes.size(), 2u);
  EXPECT_EQ(back->changes[0].ref, Ref(5));
  EXPECT_TRUE(back->changes[1].inline_delta);
  EXPECT_EQ(back->changes[1].delta, "abc");
  EXPECT_EQ(EncodeTable(*back), bytes);
}

TEST(TileTable, RejectsCutAndLongBytes) {
  const std::string bytes = EncodeTable(DeltaTable());
  for (size_t n = 0; n < bytes.size(); ++n) EXPECT_FALSE(DecodeTable(bytes.substr(0, n), 6).ok()) << n;
  EXPECT_FALSE(DecodeTable(bytes + "x", 6).ok());
}

TEST(TileTable, RejectsTilesOutOfOrderOrRange) {
  TileTable table = DeltaTable();
  EXPECT_FALSE(DecodeTable(EncodeTable(table), 4).ok());
  std::swap(table.changes[0], table.changes[1]);
  EXPECT_FALSE(DecodeTable(EncodeTable(table), 6).ok());
  table.changes[1].tile = 4;
  EXPECT_FALSE(DecodeTable(EncodeTable(table), 6).ok());
}

TEST(TileTable, RejectsUnknownKindsAndForms) {
  std::string bytes = EncodeTable(DeltaTable());
  bytes[0] = 2;
  EXPECT_FALSE(DecodeTable(bytes, 6).ok());
  bytes[0] = 1;
  bytes[5 + 4] = 2;
  EXPECT_FALSE(DecodeTable(bytes, 6).ok());
}

}  // namespace
}  // namespace omni
