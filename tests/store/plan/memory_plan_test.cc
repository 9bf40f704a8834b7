#include "store/plan/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/model/session_state.h"
#include "store/pack/synth_source.h"

namespace omni {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kMebibyte = 1 << 20;
constexpr int64_t kOther = kProgramBytes + kBlockCacheBytes;

// 40 experts x layers of 10 tiles, 150 of the 400 distinct.
ModelSizes Sizes() {
  ModelSizes sizes;
  sizes.shared_bytes = 100 * kMebibyte;
  sizes.tables = 40;
  sizes.tiles_per_expert = 10;
  sizes.unique_tiles = 150;
  sizes.tile_stride = 4096;
  sizes.session_bytes = kMebibyte;
  return sizes;
}
constexpr int64_t kFixedIndex = 40 * 10 * (4 + 4) + 150 * 48;

TEST(MemoryPlanTest, AllTilesFitAndNoSlotIsWasted) {
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(Sizes(), int64_t{1} << 34, 3);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->ram_bytes, int64_t{1} << 34);
  EXPECT_EQ(plan->cache_tiles, 150);
  EXPECT_EQ(plan->unique_tiles, 150);
  EXPECT_EQ(plan->needed_tiles, 20);
  EXPECT_EQ(plan->shared_bytes, 100 * kMebibyte);
  EXPECT_EQ(plan->session_bytes, 3 * kMebibyte);
  EXPECT_EQ(plan->index_bytes, kFixedIndex + 150 * 24);
  EXPECT_EQ(plan->other_bytes, kOther);
  EXPECT_EQ(plan->cache_bytes(), 150 * 4096);
  EXPECT_EQ(plan->used_bytes(), 103 * kMebibyte + kFixedIndex + 150 * (4096 + 24) + kOther);
}

TEST(MemoryPlanTest, ExactlyTheLeastWorksAndOneByteLessDoesNot) {
  const int64_t least = 101 * kMebibyte + kFixedIndex + 20 * (4096 + 24) + kOther;
  EXPECT_EQ(LeastBudget(Sizes(), 1), least);
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(Sizes(), least, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->cache_tiles, plan->needed_tiles);
  EXPECT_EQ(plan->used_bytes(), least);
  const absl::Status less = PlanMemory(Sizes(), least - 1, 1).status();
  EXPECT_TRUE(absl::IsResourceExhausted(less)) << less;
  EXPECT_THAT(less.message(),
              AllOf(HasSubstr("budget of 325 MiB is too small"), HasSubstr("the least that works is 326 MiB"),
                    HasSubstr("shared weights 100"), HasSubstr("needs less")));
}

TEST(MemoryPlanTest, MoreSessionsHaveAQuarterOfWhatIsMoreThanTheLeastAndASixteenthOfAllAtMost) {
  const int64_t least = LeastBudget(Sizes(), 1);
  EXPECT_EQ(SessionsToPlan(Sizes(), least, 1, 64), 1);
  EXPECT_EQ(SessionsToPlan(Sizes(), least - 1, 1, 64), 1);
  EXPECT_EQ(SessionsToPlan(Sizes(), least + 4 * kMebibyte - 1, 1, 64), 1);
  EXPECT_EQ(SessionsToPlan(Sizes(), least + 4 * kMebibyte, 1, 64), 2);
  EXPECT_EQ(SessionsToPlan(Sizes(), least + 40 * kMebibyte, 1, 64), 11);
  EXPECT_EQ(SessionsToPlan(Sizes(), least + 40 * kMebibyte, 1, 5), 5);
  EXPECT_EQ(SessionsToPlan(Sizes(), least + 40 * kMebibyte, 1, 0), 1);
  EXPECT_EQ(SessionsToPlan(Sizes(), 800 * kMebibyte, 1, 64), 1 + 800 / 16);
  for (int64_t more = 0; more < 100 * kMebibyte; more += 777'777) {
    const int64_t sessions = SessionsToPlan(Sizes(), least + more, 1, 64);
    EXPECT_TRUE(PlanMemory(Sizes(), least + more, sessions).ok()) << more;
  }
}

TEST(MemoryPlanTest, WhatIsLeftBecomesCacheSlotBySlot) {
  const int64_t least = LeastBudget(Sizes(), 1), slot = 4096 + kCacheSlotBytes;
  EXPECT_EQ(PlanMemory(Sizes(), least + slot - 1, 1)->cache_tiles, 20);
  EXPECT_EQ(PlanMemory(Sizes(), least + slot, 1)->cache_tiles, 21);
  EXPECT_EQ(PlanMemory(Sizes(), least + 129 * slot, 1)->cache_tiles, 149);
  EXPECT_EQ(PlanMemory(Sizes(), least + 130 * slot, 1)->cache_tiles, 150);
  EXPECT_EQ(PlanMemory(Sizes(), least + 131 * slot, 1)->cache_tiles, 150);
}

TEST(MemoryPlanTest, EveryBudgetThatWorksIsKept) {
  const int64_t least = LeastBudget(Sizes(), 2);
  for (int64_t ram = least; ram < least + 700'000; ram += 997) {
    const absl::StatusOr<MemoryPlan> plan = PlanMemory(Sizes(), ram, 2);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_LE(plan->used_bytes(), ram);
    EXPECT_GE(plan->cache_tiles, plan->needed_tiles);
  }
}

TEST(MemoryPlanTest, AModelOfFewTilesNeedsNoMoreThanItHas) {
  ModelSizes sizes = Sizes();
  sizes.tables = 1;
  sizes.unique_tiles = 10;
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(sizes, LeastBudget(sizes, 1), 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->needed_tiles, 10);
  EXPECT_EQ(plan->cache_tiles, 10);
}

TEST(MemoryPlanTest, AModelWithoutExpertsHasAPlanToo) {
  ModelSizes sizes = Sizes();
  sizes.tables = sizes.unique_tiles = 0;
  EXPECT_EQ(LeastBudget(sizes, 1), 101 * kMebibyte + kOther);
  const absl::StatusOr<MemoryPlan> plan = PlanMemory(sizes, int64_t{1} << 30, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->cache_tiles, 0);
  EXPECT_EQ(plan->used_bytes(), LeastBudget(sizes, 1));
  EXPECT_TRUE(absl::IsResourceExhausted(PlanMemory(sizes, 100 * kMebibyte, 1).status()));
}

TEST(MemoryPlanTest, SaysHowManySessionsTheBudgetHolds) {
  // A cache that takes what is left leaves the sessions what was planned for them, ...
  const MemoryPlan tight = *PlanMemory(Sizes(), LeastBudget(Sizes(), 3), 3);
  EXPECT_EQ(tight.bytes_for_sessions(), 3 * kMebibyte);
  EXPECT_EQ(tight.sessions_that_fit(), 3);
  // ... and one that holds everything leaves them the rest.
  const MemoryPlan wide = *PlanMemory(Sizes(), int64_t{1} << 30, 3);
  ASSERT_EQ(wide.cache_tiles, wide.unique_tiles);
  EXPECT_EQ(wide.bytes_for_sessions(), (int64_t{1} << 30) - (wide.used_bytes() - 3 * kMebibyte));
  EXPECT_EQ(wide.sessions_that_fit(), wide.bytes_for_sessions() / kMebibyte);
  EXPECT_GT(wide.sessions_that_fit(), 600);
  ModelSizes stateless = Sizes();
  stateless.session_bytes = 0;
  EXPECT_EQ(PlanMemory(stateless, int64_t{1} << 30, 3)->sessions_that_fit(), INT64_MAX);
}

TEST(MemoryPlanTest, AModelThatIsKeptWholeLeavesTheRestToSessions) {
  const int64_t whole = 102 * kMebibyte;
  const absl::StatusOr<MemoryPlan> plan = PlanWhole(Sizes(), whole, 110 * kMebibyte, 2);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->used_bytes(), whole + 2 * kMebibyte);
  EXPECT_EQ(plan->cache_tiles, 150);
  EXPECT_EQ(plan->sessions_that_fit(), 8);
  EXPECT_EQ(PlanWhole(Sizes(), whole, 104 * kMebibyte, 2)->sessions_that_fit(), 2);
  const absl::Status refused = PlanWhole(Sizes(), whole, 104 * kMebibyte - 1, 2).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(refused.message(),
              AllOf(HasSubstr("103 MiB"), HasSubstr("104 MiB"), HasSubstr("2 MiB of them")));
}

TEST(MemoryPlanTest, SaysWhatWouldMakeTheLeastSmaller) {
  ModelSizes sizes = Sizes();
  EXPECT_THAT(PlanMemory(sizes, 0, 1).status().message(), HasSubstr("fewer layers"));
  EXPECT_THAT(PlanMemory(sizes, 0, 500).status().message(), HasSubstr("every session fewer saves 1 MiB"));
  sizes.tables = int64_t{1} << 24;
  EXPECT_THAT(PlanMemory(sizes, 0, 1).status().message(), HasSubstr("a smaller delta"));
}

TEST(MemoryPlanTest, SizesThatCannotBeCountedAreRefused) {
  for (int64_t ModelSizes::*field :
       {&ModelSizes::shared_bytes, &ModelSizes::tables, &ModelSizes::tiles_per_expert,
        &ModelSizes::unique_tiles, &ModelSizes::tile_stride, &ModelSizes::session_bytes}) {
    ModelSizes sizes = Sizes();
    sizes.*field = INT64_MAX;
    EXPECT_EQ(LeastBudget(sizes, 2), INT64_MAX);
    const absl::Status status = PlanMemory(sizes, INT64_MAX, 2).status();
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr("no memory budget is enough"));
  }
  EXPECT_TRUE(absl::IsResourceExhausted(PlanMemory(Sizes(), INT64_MAX, INT64_MAX).status()));
  EXPECT_TRUE(PlanMemory(Sizes(), INT64_MAX, 1).ok());
}

TEST(MemoryPlanTest, NegativeAndEmptySizesAreInvalid) {
  EXPECT_TRUE(absl::IsInvalidArgument(PlanMemory(Sizes(), -1, 1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(PlanMemory(Sizes(), kMebibyte, -1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(PlanMemory(ModelSizes(), kMebibyte, 1).status()));
  ModelSizes sizes = Sizes();
  sizes.tile_stride = 0;
  EXPECT_THAT(PlanMemory(sizes, kMebibyte, 1).status().message(), HasSubstr("tile_stride is 0"));
}

TEST(MemoryPlanTest, SizesOfAPresetAreThoseOfItsModel) {
  for (const char* preset : {"perspective-1t", "mini", "tiny"}) {
    const ModelConfig config = *Preset(preset);
    const ModelSizes sizes = ExpectedSizes(config);
    EXPECT_EQ(sizes.shared_bytes + sizes.unique_tiles * sizes.tile_stride,
              SynthBytes(config, /*whole=*/false));
  }
  const ModelConfig tiny = *Preset("tiny");
  EXPECT_EQ(ExpectedSizes(tiny).session_bytes, SessionState(tiny).bytes());
  EXPECT_EQ(ExpectedSizes(tiny).tables, 3 * tiny.num_experts());
  EXPECT_EQ(ExpectedSizes(*Preset("perspective-1t")).tile_stride % 4096, 0);
}

}  // namespace
}  // namespace omni
