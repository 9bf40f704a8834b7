#include "store/format/present_tiles.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/random_model.h"

namespace omni {
namespace {

using ::testing::HasSubstr;

const Hash128 kModel = {1, 2};

TEST(PresentTiles, NumbersTilesThroughAllPackFiles) {
  const PresentTiles tiles({3, 0, 5});
  EXPECT_EQ(tiles.tiles(), 8);
  int64_t number = 0;
  for (const TilePlace& place :
       std::vector<TilePlace>{{0, 0}, {0, 1}, {0, 2}, {2, 0}, {2, 1}, {2, 2}, {2, 3}, {2, 4}}) {
    EXPECT_EQ(tiles.Number(place), number);
    EXPECT_EQ(tiles.Place(number), place);
    ++number;
  }
  for (const TilePlace& none :
       std::vector<TilePlace>{{0, 3}, {1, 0}, {2, 5}, {3, 0}, {UINT32_MAX, UINT32_MAX}})
    EXPECT_EQ(tiles.Number(none), -1);
}

TEST(PresentTiles, IsReadAsItWasWritten) {
  testing::Random random(1);
  for (const std::vector<int64_t>& packs : std::vector<std::vector<int64_t>>{{}, {1}, {8}, {3, 9, 0, 70}}) {
    PresentTiles tiles(packs);
    for (int64_t n = 0; n < tiles.tiles(); ++n) tiles.Set(n, random.Below(2) == 0);
    const absl::StatusOr<PresentTiles> read = PresentTiles::Parse("p", tiles.Encode(kModel), kModel);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_TRUE(read->SameModel(tiles));
    EXPECT_EQ(read->count(), tiles.count());
    for (int64_t n = 0; n < tiles.tiles(); ++n) EXPECT_EQ(read->Has(n), tiles.Has(n));
  }
}

TEST(PresentTiles, CountsAndForgets) {
  PresentTiles tiles({2});
  tiles.Set(1, true);
  tiles.Set(1, true);
  EXPECT_EQ(tiles.count(), 1);
  tiles.Set(0, true);
  EXPECT_TRUE(tiles.complete());
  tiles.Set(1, false);
  EXPECT_FALSE(tiles.complete());
  EXPECT_EQ(tiles.count(), 1);
}

// With a checksum that holds, whatever stands there.
std::string Sealed(std::string bytes) {
  const uint64_t sum = Checksum64(bytes.data(), bytes.size());
  return bytes.append(reinterpret_cast<const char*>(&sum), sizeof sum);
}

TEST(PresentTiles, BytesThatAreNoRecordOfTheModelAreRefused) {
  const std::string good = PresentTiles({3, 2}).Encode(kModel), body = good.substr(0, good.size() - 8);
  EXPECT_EQ(Sealed(body), good);
  std::string bits = body, huge = body, version = body;
  bits.back() = '\x20';  // a sixth tile
  huge[32 + 5] = '\x7f';
  version[8] = 2;
  for (const std::string& bad : {Sealed(bits), Sealed(huge), Sealed(body + '\0'), Sealed(body.substr(0, 47)),
                                 Sealed(body.substr(0, 20)), Sealed(""), std::string(), good + '\0'}) {
    EXPECT_TRUE(absl::IsDataLoss(PresentTiles::Parse("p", bad, kModel).status()));
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(PresentTiles::Parse("p", Sealed(version), kModel).status()));
  EXPECT_THAT(PresentTiles::Parse("p", good, {1, 3}).status().message(), HasSubstr("another model"));
  testing::Random random(2);
  for (int i = 0; i < 20000; ++i) {
    std::string any = body;
    for (int64_t n = random.Below(4); n >= 0; --n)
      any[static_cast<size_t>(random.Below(static_cast<int64_t>(any.size())))] =
          static_cast<char>(random.Next());
    any.resize(static_cast<size_t>(random.Below(static_cast<int64_t>(any.size()) + 1)));
    (void)PresentTiles::Parse("p", Sealed(any), kModel);  // ends, whatever it says
  }
}

}  // namespace
}  // namespace omni
