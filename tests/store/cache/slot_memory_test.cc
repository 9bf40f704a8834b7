#include "store/cache/slot_memory.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include <cstring>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMiB = int64_t{1} << 20;

// Pages of [begin, begin + bytes) that are in memory.
int64_t Resident(const uint8_t* begin, int64_t bytes) {
  std::vector<unsigned char> pages(static_cast<size_t>(bytes / 4096));
  if (::mincore(const_cast<uint8_t*>(begin), static_cast<size_t>(bytes), pages.data()) != 0) return -1;
  int64_t resident = 0;
  for (const unsigned char page : pages) resident += page & 1;
  return resident;
}

TEST(SlotMemoryTest, GrowsInPlaceAndGivesBackWhatIsBeyond) {
  auto memory = SlotMemory::Reserve(4 * kMiB, 64 * kMiB);
  ASSERT_TRUE(memory.ok()) << memory.status();
  uint8_t* const data = memory->data();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % (2 * kMiB), 0u);
  std::memset(data, 7, 4 * kMiB);
  ASSERT_TRUE(memory->Resize(16 * kMiB).ok());
  EXPECT_EQ(memory->data(), data);
  std::memset(data + 4 * kMiB, 8, 12 * kMiB);
  EXPECT_EQ(Resident(data, 16 * kMiB), 4096);
  ASSERT_TRUE(memory->Resize(2 * kMiB).ok());
  EXPECT_EQ(memory->bytes(), 2 * kMiB);
  EXPECT_EQ(data[2 * kMiB - 1], 7);
  EXPECT_EQ(Resident(data + 2 * kMiB, 14 * kMiB), 0);
  ASSERT_TRUE(memory->Resize(8 * kMiB).ok());
  EXPECT_EQ(data[2 * kMiB - 1], 7);
  EXPECT_EQ(data[4 * kMiB], 0);  // fresh
  SlotMemory moved = *std::move(memory);
  EXPECT_EQ(moved.data(), data);
}

TEST(SlotMemoryTest, BeyondTheMostIsRefusedAndChangesNothing) {
  auto memory = SlotMemory::Reserve(kMiB, 2 * kMiB);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const absl::Status refused = memory->Resize(3 * kMiB);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("ulimit -v"));
  EXPECT_EQ(memory->bytes(), kMiB);
}

TEST(SlotMemoryTest, WhereAddressSpaceIsScarceItIsThereButMayNotGrow) {
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_AS, &before), 0);
  rlimit scarce = before;
  scarce.rlim_cur = rlim_t{1} << 36;
  if (before.rlim_max != RLIM_INFINITY && before.rlim_max < scarce.rlim_cur)
    GTEST_SKIP() << "the address space is limited already";
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &scarce), 0);
  auto memory = SlotMemory::Reserve(kMiB, int64_t{1} << 40);
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &before), 0);
  ASSERT_TRUE(memory.ok()) << memory.status();
  memory->data()[kMiB - 1] = 1;
  EXPECT_TRUE(absl::IsResourceExhausted(memory->Resize(2 * kMiB)));
}

}  // namespace
}  // namespace omni
