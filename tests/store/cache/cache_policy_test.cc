// Cache policies: that each orders tiles as it says, and that all of them keep their books whatever happens.
#include "store/cache/cache_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <memory>
#include <vector>

#include "engine/base/splitmix.h"
#include "store/cache/routing_trace.h"

namespace omni {
namespace {

constexpr PolicyKind kKinds[] = {PolicyKind::kLru, PolicyKind::kDecayed, PolicyKind::kTorus};

// The smallest model with the full torus.
ModelConfig Config() { return *Preset("tiny"); }

// Every expert of `places` layers has `shared` tiles of its region and `own` ones. contents[table] lists
// them.
struct Tables {
  Tables(const ModelConfig& config, int64_t places, int64_t shared, int64_t own) {
    users.experts = config.num_experts();
    contents.resize(static_cast<size_t>(places * users.experts));
    users.first.push_back(0);
    for (int64_t p = 0; p < places; ++p) {
      for (int32_t r = 0; r < config.num_regions(); ++r) {
        std::vector<int64_t> region;
        for (int64_t i = 0; i < config.experts_per_region(); ++i) {
          region.push_back(p * users.experts + config.ExpertOf(RegionId(r), i).value);
        }
        std::sort(region.begin(), region.end());
        Add(region, shared);
        for (int64_t table : region) Add({table}, own);
      }
    }
  }
  void Add(const std::vector<int64_t>& tables, int64_t tiles) {
    for (int64_t t = 0; t < tiles; ++t) {
      for (int64_t table : tables) {
        contents[static_cast<size_t>(table)].push_back(static_cast<uint32_t>(users.contents()));
        users.users.push_back(static_cast<uint32_t>(table));
      }
      users.first.push_back(static_cast<uint32_t>(users.users.size()));
    }
  }
  uint32_t Own(int64_t expert) const { return contents[static_cast<size_t>(expert)].back(); }

  TileUsers users;
  std::vector<std::vector<uint32_t>> contents;
};

bool Any(uint32_t) { return true; }

// The experts of the slots in the order in which the policy gives them up; slot i holds tile Own(experts[i])
// of place 0.
std::vector<int64_t> OrderOf(CachePolicy& policy, const std::vector<int64_t>& experts) {
  std::vector<int64_t> order;
  for (size_t i = 0; i < experts.size(); ++i) {
    const int64_t slot = policy.Victim(Any);
    if (slot < 0) break;
    order.push_back(experts[static_cast<size_t>(slot)]);
    policy.OnEvict(static_cast<uint32_t>(slot));
  }
  return order;
}

void FillWithOwn(CachePolicy& policy, const Tables& tables, const std::vector<int64_t>& experts) {
  for (size_t i = 0; i < experts.size(); ++i) policy.OnFill(static_cast<uint32_t>(i), tables.Own(experts[i]));
}

TEST(UsersOf, ListsEveryExpertOfATileOnce) {
  ModelConfig config = Config();
  TileContents contents(config);
  contents.Allocate();
  const TableNumbers& numbers = contents.numbers();
  ASSERT_GE(numbers.tiles(), 2);
  // Tile 0 is the same in all experts of a layer, the others are each expert's own, equal among themselves.
  for (int64_t table = 0; table < numbers.tables(); ++table) {
    const auto layer = static_cast<uint64_t>(numbers.Layer(table).value);
    for (int64_t t = 0; t < numbers.tiles(); ++t) {
      contents.Set(table, t,
                   contents.NumberOf(t == 0 ? Hash128{1, layer} : Hash128{2, static_cast<uint64_t>(table)}));
    }
  }
  const TileUsers users = UsersOf(contents);
  EXPECT_EQ(users.experts, 128);
  ASSERT_EQ(users.contents(), contents.unique());
  const uint32_t shared = contents.Of(128)[0], own = contents.Of(130)[1];
  ASSERT_EQ(users.first[shared + 1] - users.first[shared], 128u);
  for (uint32_t i = 0; i < 128; ++i) EXPECT_EQ(users.users[users.first[shared] + i], 128 + i);
  ASSERT_EQ(users.first[own + 1] - users.first[own], 1u);
  EXPECT_EQ(users.users[users.first[own]], 130u);
}

TEST(LruPolicy, EqualsAListThatIsSearched) {
  const Tables tables(Config(), 1, 1, 1);
  constexpr uint32_t kSlots = 23;
  auto policy = MakePolicy(PolicyKind::kLru, kSlots, tables.users, Config());
  std::list<uint32_t> oldest_first;
  for (uint64_t i = 0; i < 20000; ++i) {
    const auto slot = static_cast<uint32_t>(CounterRandom(1, 2 * i) % kSlots);
    const uint64_t kind = CounterRandom(1, 2 * i + 1) % 8;
    const bool filled = std::find(oldest_first.begin(), oldest_first.end(), slot) != oldest_first.end();
    if (!filled) {
      policy->OnFill(slot, 0);
      oldest_first.push_back(slot);
    } else if (kind == 0) {
      policy->OnEvict(slot);
      oldest_first.remove(slot);
    } else {
      policy->OnUse(slot);
      oldest_first.remove(slot);
      oldest_first.push_back(slot);
    }
    const auto odd = [](uint32_t s) { return s % 2 == 1; };
    const auto want = std::find_if(oldest_first.begin(), oldest_first.end(), odd);
    ASSERT_EQ(policy->Victim(odd), want == oldest_first.end() ? -1 : static_cast<int64_t>(*want));
  }
}

TEST(DecayedPolicy, GivesUpTheLeastUsedAndForgets) {
  const Tables tables(Config(), 1, 0, 1);
  auto policy = MakePolicy(PolicyKind::kDecayed, 4, tables.users, Config());
  const std::vector<int64_t> experts = {10, 20, 30, 40};
  FillWithOwn(*policy, tables, experts);
  for (int i = 0; i < 3; ++i) policy->OnExpert(0, 20);
  for (int i = 0; i < 2; ++i) policy->OnExpert(0, 10);
  policy->OnExpert(0, 40);
  EXPECT_EQ(OrderOf(*policy, experts), (std::vector<int64_t>{30, 40, 10, 20}));
  // Three uses 64 tokens ago are less than one use now.
  for (int i = 0; i < 64; ++i) policy->OnExpert(0, 99);
  policy->OnExpert(0, 40);
  FillWithOwn(*policy, tables, experts);
  EXPECT_EQ(OrderOf(*policy, experts), (std::vector<int64_t>{30, 10, 20, 40}));
  // What is used again starts from what is left of its count.
  for (int64_t expert : {20, 30, 30}) policy->OnExpert(0, expert);
  FillWithOwn(*policy, tables, experts);
  EXPECT_EQ(OrderOf(*policy, experts), (std::vector<int64_t>{10, 40, 20, 30}));
}

TEST(TorusPolicy, KeepsNeighboursOverDistantExpertsBeforeItHasSeenAnything) {
  const Tables tables(Config(), 2, 0, 1);
  auto policy = MakePolicy(PolicyKind::kTorus, 4, tables.users, Config());
  policy->OnExpert(0, 0);
  // From expert 0: itself; a neighbour the short way round the first axis; two hops; eight.
  const std::vector<int64_t> experts = {7, 4 + 8 * 2 + 32 * 2, 0, 1 + 8};
  FillWithOwn(*policy, tables, experts);
  EXPECT_EQ(OrderOf(*policy, experts), (std::vector<int64_t>{4 + 8 * 2 + 32 * 2, 1 + 8, 7, 0}));
}

TEST(TorusPolicy, LearnsWhereTokensGoInAllLayersTogether) {
  const Tables tables(Config(), 2, 0, 1);
  auto policy = MakePolicy(PolicyKind::kTorus, 3, tables.users, Config());
  // Three along the first axis with every token, in place 1; place 0 stands still at last.
  for (int64_t t = 0; t < 400; ++t) {
    policy->OnExpert(0, 3 * t % 8);
    policy->OnExpert(1, (3 * t + 1) % 8);
  }
  policy->OnExpert(0, 8);
  const std::vector<int64_t> experts = {8, 8 + 1, 8 + 3};
  FillWithOwn(*policy, tables, experts);
  EXPECT_EQ(OrderOf(*policy, experts).back(), 8 + 3);
}

TEST(TorusPolicy, LearnsAModelsFavourites) {
  const Tables tables(Config(), 2, 0, 1);
  auto policy = MakePolicy(PolicyKind::kTorus, 3, tables.users, Config());
  // Anywhere on the torus, but each fourth time expert 77.
  for (uint64_t t = 0; t < 2000; ++t) {
    for (int64_t p : {0, 1}) {
      const uint64_t random = CounterRandom(static_cast<uint64_t>(p), t);
      policy->OnExpert(p, random % 4 == 0 ? 77 : static_cast<int64_t>(random / 4 % 128));
    }
  }
  policy->OnExpert(0, 2);
  const std::vector<int64_t> experts = {2, 77, 1};
  FillWithOwn(*policy, tables, experts);
  EXPECT_EQ(OrderOf(*policy, experts).back(), 77);
}

TEST(TorusPolicy, KeepsWhatARegionSharesOverOneExpertsOwn) {
  const Tables tables(Config(), 1, 1, 1);
  auto policy = MakePolicy(PolicyKind::kTorus, 2, tables.users, Config());
  policy->OnExpert(0, 0);
  policy->OnFill(0, tables.Own(1));
  policy->OnFill(1, tables.contents[1][0]);
  EXPECT_EQ(policy->Victim(Any), 0);
}

TEST(TorusPolicy, KeepsWhatIsPredictedUntilTheLayerHasChosen) {
  const Tables tables(Config(), 2, 0, 1);
  auto policy = MakePolicy(PolicyKind::kTorus, 2, tables.users, Config());
  policy->OnExpert(0, 0);
  policy->OnExpert(1, 0);
  const std::vector<int64_t> experts = {84, 1};
  FillWithOwn(*policy, tables, experts);
  EXPECT_EQ(policy->Victim(Any), 0);
  policy->OnPredict(0, 84);
  EXPECT_EQ(policy->Victim(Any), 1);
  policy->OnExpert(0, 0);
  EXPECT_EQ(policy->Victim(Any), 0);
}

TEST(TorusPolicy, CountsAllExpertsOfABatch) {
  const Tables tables(Config(), 2, 0, 1);
  auto policy = MakePolicy(PolicyKind::kTorus, 3, tables.users, Config());
  for (int64_t expert : {0, 84}) policy->OnExpert(0, expert);
  const std::vector<int64_t> experts = {0, 50, 84};
  FillWithOwn(*policy, tables, experts);
  EXPECT_EQ(OrderOf(*policy, experts).front(), 50);
}

TEST(CachePolicy, VictimsAreFreeToGoOrThereIsNone) {
  const Tables tables(Config(), 2, 2, 1);
  for (PolicyKind kind : kKinds) {
    auto policy = MakePolicy(kind, 8, tables.users, Config());
    SCOPED_TRACE(policy->name());
    EXPECT_EQ(policy->Victim(Any), -1) << "all slots are empty";
    for (uint32_t slot = 0; slot < 8; ++slot) policy->OnFill(slot, slot * 5);
    EXPECT_EQ(policy->Victim([](uint32_t) { return false; }), -1);
    for (uint32_t only = 0; only < 8; ++only) {
      EXPECT_EQ(policy->Victim([&](uint32_t s) { return s == only; }), only);
    }
    policy->OnEvict(3);
    EXPECT_EQ(policy->Victim([](uint32_t s) { return s == 3; }), -1) << "an empty slot is no victim";
  }
}

// As a cache would use it, with pinned tiles, predictions and batches of several experts.
TEST(CachePolicy, KeepsItsBooksThroughALongRun) {
  const ModelConfig config = Config();
  constexpr int64_t kPlaces = 3;
  const Tables tables(config, kPlaces, 3, 2);
  for (PolicyKind kind : kKinds) {
    constexpr uint32_t kSlots = 97;
    constexpr uint32_t kNone = UINT32_MAX;
    auto policy = MakePolicy(kind, kSlots, tables.users, config);
    SCOPED_TRACE(policy->name());
    std::vector<uint32_t> content(kSlots, kNone),
        slot_of(static_cast<size_t>(tables.users.contents()), kNone);
    std::vector<uint64_t> pinned(kSlots);
    uint64_t random = 0, step = 0;
    const auto draw = [&](uint64_t n) { return CounterRandom(7, random++) % n; };
    for (int64_t t = 0; t < 2000; ++t) {
      for (int64_t p = 0; p < kPlaces; ++p) {
        ++step;
        for (uint64_t row = draw(3) + 1; row-- > 0;) {
          const auto expert = static_cast<int64_t>(draw(128));
          policy->OnExpert(p, expert);
          policy->OnPredict((p + 1) % kPlaces, static_cast<int64_t>(draw(128)));
          for (uint32_t c : tables.contents[static_cast<size_t>(p * 128 + expert)]) {
            uint32_t slot = slot_of[c];
            if (slot != kNone) {
              policy->OnUse(slot);
            } else {
              const auto empty = std::find(content.begin(), content.end(), kNone);
              slot = static_cast<uint32_t>(empty - content.begin());
              if (slot == kSlots) {
                const int64_t victim = policy->Victim([&](uint32_t s) { return pinned[s] != step; });
                ASSERT_GE(victim, 0);
                slot = static_cast<uint32_t>(victim);
                ASSERT_NE(pinned[slot], step);
                ASSERT_NE(content[slot], kNone);
                policy->OnEvict(slot);
                slot_of[content[slot]] = kNone;
              }
              content[slot] = c;
              slot_of[c] = slot;
              policy->OnFill(slot, c);
            }
            pinned[slot] = step;
          }
        }
        if (draw(4) == 0) {  // given back, as by a smaller budget
          const auto slot = static_cast<uint32_t>(draw(kSlots));
          if (content[slot] == kNone) continue;
          policy->OnEvict(slot);
          slot_of[content[slot]] = kNone;
          content[slot] = kNone;
        }
      }
    }
    // Every filled slot can be had, once.
    const auto filled = kSlots - std::count(content.begin(), content.end(), kNone);
    for (int64_t i = 0; i < filled; ++i) {
      const int64_t slot = policy->Victim(Any);
      ASSERT_GE(slot, 0);
      ASSERT_NE(content[static_cast<size_t>(slot)], kNone);
      content[static_cast<size_t>(slot)] = kNone;
      policy->OnEvict(static_cast<uint32_t>(slot));
    }
    EXPECT_EQ(policy->Victim(Any), -1);
  }
}

// Which policy is the better one is measured in tests/bench/cache_ratios.cc; here only that the shipped one
// is worth having.
TEST(TorusPolicy, HitsMoreOftenThanLruOnAWalk) {
  const ModelConfig config = Config();
  const RoutingTrace trace = DrawTrace(config, 400, 1);
  const Tables tables(config, trace.places(), 9, 1);
  const auto hits = [&](PolicyKind kind) {
    const auto slots = static_cast<uint32_t>(tables.users.contents() / 5);
    auto policy = MakePolicy(kind, slots, tables.users, config);
    std::vector<uint32_t> content(slots), slot_of(static_cast<size_t>(tables.users.contents()), UINT32_MAX);
    int64_t count = 0;
    uint32_t used = 0;
    for (int64_t t = 0; t < trace.tokens(); ++t) {
      for (int64_t p = 0; p < trace.places(); ++p) {
        policy->OnExpert(p, trace.At(t, p));
        for (uint32_t c : tables.contents[static_cast<size_t>(p * 128 + trace.At(t, p))]) {
          if (slot_of[c] != UINT32_MAX) {
            ++count;
            policy->OnUse(slot_of[c]);
            continue;
          }
          uint32_t slot = used;
          if (used < slots) {
            ++used;
          } else {
            slot = static_cast<uint32_t>(policy->Victim(Any));
            policy->OnEvict(slot);
            slot_of[content[slot]] = UINT32_MAX;
          }
          content[slot] = c;
          slot_of[c] = slot;
          policy->OnFill(slot, c);
        }
      }
    }
    return static_cast<double>(count) / static_cast<double>(trace.tokens() * trace.places() * 10);
  };
  EXPECT_GT(hits(PolicyKind::kTorus), hits(PolicyKind::kLru) + 0.02);
}

}  // namespace
}  // namespace omni
