// The fibers themselves: what runs right, and that what CUDA leaves undefined is found.
#include "tests/testing/simt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace omni::simt {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr unsigned kAll = 0xffffffffu;

std::vector<std::string> FaultsOf(unsigned blocks, unsigned threads, const std::function<void()>& kernel,
                                  int64_t dynamic_bytes = 0) {
  TakeFaults();
  Launch({blocks, 1, 1}, {threads, 1, 1}, dynamic_bytes, kernel);
  return TakeFaults();
}

class SimtTest : public testing::TestWithParam<Order> {
 protected:
  void SetUp() override { SetOrder(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Orders, SimtTest,
                         testing::Values(Order::kAscending, Order::kDescending, Order::kShuffled));

TEST_P(SimtTest, EveryThreadOfEveryBlockRunsOnce) {
  std::vector<int> ran(3 * 64);
  EXPECT_THAT(FaultsOf(3, 64, [&] { ++ran[blockIdx.x * blockDim.x + threadIdx.x]; }), IsEmpty());
  EXPECT_THAT(ran, testing::Each(1));
}

TEST_P(SimtTest, ThreadsOfABlockHaveThreeCoordinates) {
  std::vector<unsigned> seen;
  Launch({1, 1, 1}, {4, 4, 2}, 0, [&] {
    if (threadIdx.z == 1 && threadIdx.y == 2) seen.push_back(threadIdx.x);
  });
  std::sort(seen.begin(), seen.end());
  EXPECT_THAT(seen, ElementsAre(0u, 1u, 2u, 3u));
}

TEST_P(SimtTest, SharedMemoryBehindABarrier) {
  std::vector<int> out(64);
  EXPECT_THAT(FaultsOf(1, 64,
                       [&] {
                         OMNI_SHARED(int, value, 64);
                         value[threadIdx.x] = static_cast<int>(threadIdx.x);
                         __syncthreads();
                         out[threadIdx.x] = value[63 - threadIdx.x];
                       }),
              IsEmpty());
  for (int i = 0; i < 64; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], 63 - i);
}

TEST_P(SimtTest, ShufflesVotesAndReductions) {
  std::vector<int> shuffled(32), sums(32);
  std::vector<unsigned> votes(32), largest(32);
  EXPECT_THAT(FaultsOf(1, 32,
                       [&] {
                         const int lane = static_cast<int>(threadIdx.x);
                         shuffled[threadIdx.x] = __shfl_xor_sync(kAll, lane, 5);
                         votes[threadIdx.x] = __ballot_sync(kAll, lane % 3 == 0);
                         sums[threadIdx.x] = __reduce_add_sync(kAll, lane - 20);
                         const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
                         largest[threadIdx.x] = __reduce_max_sync(half, threadIdx.x);
                       }),
              IsEmpty());
  for (int i = 0; i < 32; ++i) {
    const auto at = static_cast<size_t>(i);
    EXPECT_EQ(shuffled[at], i ^ 5);
    EXPECT_EQ(votes[at], 0x49249249u);
    EXPECT_EQ(sums[at], 31 * 16 - 20 * 32);
    EXPECT_EQ(largest[at], i < 16 ? 15u : 31u);
  }
}

TEST_P(SimtTest, AtomicsOfSharedMemory) {
  int total = 0;
  unsigned most = 0;
  EXPECT_THAT(FaultsOf(1, 96,
                       [&] {
                         OMNI_SHARED(int, sum, 1);
                         OMNI_SHARED(unsigned, largest, 1);
                         if (threadIdx.x == 0) {
                           sum[0] = 0;
                           largest[0] = 0;
                         }
                         __syncthreads();
                         atomicAdd(&sum[0], 2);
                         atomicMax(&largest[0], threadIdx.x * 7 % 96);
                         __syncthreads();
                         if (threadIdx.x == 95) {
                           total = sum[0];
                           most = largest[0];
                         }
                       }),
              IsEmpty());
  EXPECT_EQ(total, 192);
  EXPECT_EQ(most, 95u);
}

TEST_P(SimtTest, LanesOfAWarpMeetWithoutTheBlock) {
  EXPECT_THAT(FaultsOf(1, 64,
                       [] {
                         OMNI_SHARED(int, value, 64);
                         value[threadIdx.x] = 1;
                         __syncwarp();
                         const int other = value[threadIdx.x ^ 1];
                         __syncwarp();
                         value[threadIdx.x] = other;
                       }),
              IsEmpty());
}

TEST(SimtWords, ProductsAndPermutations) {
  EXPECT_EQ(__dp4a(0x7f80ff01, 0x02020202, 3), 3 + 2 * (127 - 128 - 1 + 1));
  EXPECT_EQ(__byte_perm(0x33221100u, 0x77665544u, 0x7351), 0x77335511u);
  EXPECT_EQ(__float2int_rn(2.5f), 2);
  EXPECT_EQ(__float2int_rn(-3.5f), -4);
}

void OneIn(const std::vector<std::string>& faults, const std::string& what) {
  ASSERT_EQ(faults.size(), 1u) << testing::PrintToString(faults);
  EXPECT_THAT(faults[0], HasSubstr(what));
  EXPECT_THAT(faults[0], HasSubstr("simt_test.cc:"));
}

TEST_P(SimtTest, FindsAMissingBarrier) {
  OneIn(FaultsOf(1, 64,
                 [] {
                   OMNI_SHARED(int, value, 64);
                   value[threadIdx.x] = 1;
                   static_cast<void>(static_cast<int>(value[threadIdx.x ^ 32]));
                 }),
        "value[");
}

TEST_P(SimtTest, FindsAMissingBarrierInAWarp) {
  OneIn(FaultsOf(1, 32,
                 [] {
                   OMNI_SHARED(int, value, 32);
                   value[threadIdx.x] = 1;
                   static_cast<void>(static_cast<int>(value[threadIdx.x ^ 1]));
                 }),
        "value[");
}

TEST_P(SimtTest, FindsWhatIsOverwrittenWhileOthersRead) {
  OneIn(FaultsOf(1, 64,
                 [] {
                   OMNI_SHARED(int, value, 64);
                   value[threadIdx.x] = 1;
                   __syncthreads();
                   const int other = value[threadIdx.x ^ 32];
                   value[threadIdx.x] = other;
                 }),
        "since the last barrier");
}

TEST_P(SimtTest, FindsTwoThreadsThatWriteOneElement) {
  OneIn(FaultsOf(1, 64,
                 [] {
                   OMNI_SHARED(int, value, 1);
                   value[0] = static_cast<int>(threadIdx.x);
                 }),
        "value[0] is written and was written");
}

TEST_P(SimtTest, FindsAPlainReadBesideAtomics) {
  OneIn(FaultsOf(1, 64,
                 [] {
                   OMNI_SHARED(int, sum, 1);
                   if (threadIdx.x == 0) sum[0] = 0;
                   __syncthreads();
                   atomicAdd(&sum[0], 1);
                   static_cast<void>(static_cast<int>(sum[0]));
                 }),
        "sum[0]");
}

TEST_P(SimtTest, FindsUnsetMemory) {
  OneIn(FaultsOf(1, 32,
                 [] {
                   OMNI_SHARED(float, value, 33);
                   value[threadIdx.x] = 1;
                   __syncthreads();
                   static_cast<void>(static_cast<float>(value[threadIdx.x + 1]));
                 }),
        "value[32] is read and was never written");
}

TEST_P(SimtTest, FindsAnIndexOutside) {
  OneIn(FaultsOf(
            1, 32,
            [] {
              OMNI_DYNAMIC_SHARED(float, value);
              value[threadIdx.x + 1] = 1;
            },
            32 * sizeof(float)),
        "value[32] of 32");
  OneIn(FaultsOf(1, 32,
                 [] {
                   OMNI_SHARED(float, value, 32);
                   value[static_cast<int>(threadIdx.x) - 1] = 1;
                 }),
        "value[-1] of 32");
}

TEST_P(SimtTest, FindsABarrierInABranch) {
  OneIn(FaultsOf(1, 64,
                 [] {
                   if (threadIdx.x < 32) __syncthreads();
                 }),
        "__syncthreads");
  OneIn(FaultsOf(1, 64,
                 [] {
                   if (threadIdx.x < 32) {
                     __syncthreads();
                   } else {
                     __syncthreads();
                   }
                 }),
        "is at __syncthreads");
}

TEST_P(SimtTest, FindsAMaskOfLanesThatDoNotCome) {
  OneIn(FaultsOf(1, 32,
                 [] {
                   if (threadIdx.x < 16) __shfl_xor_sync(kAll, 1, 1);
                 }),
        "waits in vain");
}

TEST_P(SimtTest, FindsMasksThatDiffer) {
  OneIn(FaultsOf(1, 32,
                 [] {
                   const unsigned mask = threadIdx.x == 3 ? 0x0000ffffu : kAll;
                   __ballot_sync(mask, 1);
                 }),
        "a ballot");
}

TEST_P(SimtTest, FindsAMaskWithoutTheCaller) {
  OneIn(FaultsOf(1, 32, [] { __shfl_sync(0x0000ffffu, 1, 0); }), "mask lacks the caller");
}

TEST_P(SimtTest, FindsAShuffleFromOutsideTheMask) {
  OneIn(FaultsOf(1, 32,
                 [] {
                   const unsigned mask = threadIdx.x < 16 ? 0x0000ffffu : 0xffff0000u;
                   __shfl_xor_sync(mask, 1, 16);
                 }),
        "which its mask lacks");
}

TEST(SimtLaunch, RefusesBlocksThatNoDeviceTakes) {
  EXPECT_EQ(FaultsOf(1, 48, [] {}).size(), 1u);
  EXPECT_EQ(FaultsOf(1, 2048, [] {}).size(), 1u);
  EXPECT_EQ(FaultsOf(0, 32, [] {}).size(), 1u);
}

TEST(SimtLaunch, GoesOnAfterAFault) {
  EXPECT_EQ(FaultsOf(4, 64,
                     [] {
                       if (threadIdx.x < 32) __syncthreads();
                     })
                .size(),
            1u);
  EXPECT_THAT(FaultsOf(4, 64, [] { __syncthreads(); }), IsEmpty());
}

}  // namespace
}  // namespace omni::simt
