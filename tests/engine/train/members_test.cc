// Tokens dealt to the members of a region.
#include "engine/train/members.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace omni::train {
namespace {

// Frequencies as words have them: about inverse to the rank, in no order, many tokens not there at all.
std::vector<int64_t> Counts(int64_t tokens, int64_t unseen) {
  std::vector<int64_t> counts(static_cast<size_t>(tokens), 0);
  for (int64_t rank = 1; rank <= tokens - unseen; ++rank)
    counts[static_cast<size_t>(rank * 7919 % tokens)] = 100000 / rank;
  return counts;
}

std::vector<int64_t> Loads(const std::vector<uint8_t>& table, const std::vector<int64_t>& counts,
                           int64_t members) {
  std::vector<int64_t> loads(static_cast<size_t>(members), 0);
  for (size_t token = 0; token < table.size(); ++token) loads.at(table[token]) += counts[token];
  return loads;
}

TEST(DealMembers, GivesMembersLoadsWithinOneTokensShareOfEachOther) {
  for (const int64_t members : {1, 2, 7, 8, 256}) {
    const std::vector<int64_t> counts = Counts(2048, 300);
    const auto loads = Loads(DealMembers(counts, members, 5), counts, members);
    const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
    EXPECT_LE(*most - *least, *std::max_element(counts.begin(), counts.end())) << members;
  }
  const std::vector<int64_t> counts = Counts(2048, 300);
  const auto loads = Loads(DealMembers(counts, 8, 5), counts, 8);
  const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
  // Rare tokens, dealt last, even it out.
  EXPECT_LE(*most - *least, std::accumulate(loads.begin(), loads.end(), int64_t{0}) / 1000);
}

TEST(DealMembers, SharesOutTokensThatDoNotOccur) {
  std::vector<int64_t> tokens(8, 0);
  for (uint8_t member : DealMembers(std::vector<int64_t>(2048, 0), 8, 5)) ++tokens.at(member);
  EXPECT_EQ(tokens, std::vector<int64_t>(8, 256));
}

TEST(DealMembers, PutsOtherTokensTogetherForAnotherKeyAndTheSameForTheSame) {
  const std::vector<int64_t> counts = Counts(2048, 300);
  const std::vector<uint8_t> table = DealMembers(counts, 8, 5), other = DealMembers(counts, 8, 6);
  EXPECT_EQ(table, DealMembers(counts, 8, 5));
  int64_t together = 0, still = 0;
  for (size_t a = 0; a < 200; ++a) {
    for (size_t b = 0; b < a; ++b) {
      if (table[a] != table[b]) continue;
      ++together;
      still += other[a] == other[b];
    }
  }
  EXPECT_LT(still, together / 4);  // an eighth by chance
}

TEST(CountFollowers, CountsEveryPairOfNeighboursOrPlacesEvenlyOverTheText) {
  const std::vector<int32_t> text = {3, 1, 3, 1, 2, 3, 1};
  const std::vector<Follower> followers = CountFollowers(text, 100);
  ASSERT_EQ(followers.size(), 4u);
  const int64_t want[4][3] = {{1, 2, 1}, {1, 3, 1}, {2, 3, 1}, {3, 1, 3}};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(followers[i].token, want[i][0]);
    EXPECT_EQ(followers[i].next, want[i][1]);
    EXPECT_EQ(followers[i].count, want[i][2]);
  }
  const auto places = [](const std::vector<Follower>& all) {
    return std::accumulate(all.begin(), all.end(), int64_t{0},
                           [](int64_t sum, const Follower& f) { return sum + f.count; });
  };
  EXPECT_EQ(places(CountFollowers(text, 3)), 3);
  EXPECT_TRUE(CountFollowers({}, 3).empty());
}

// Tokens of eight kinds, `token % 8`, each kind followed by tokens of the next one.
std::vector<int32_t> TextOfKinds(int32_t tokens) {
  std::vector<int32_t> text;
  uint64_t x = 1;
  for (int32_t i = 0; i < 60000; ++i) {
    x = x * 6364136223846793005ULL + 1442695040888963407ULL;
    text.push_back(static_cast<int32_t>((x >> 33) % static_cast<uint64_t>(tokens / 8)) * 8 + i % 8);
  }
  return text;
}

TEST(DealSimilarMembers, PutsTokensTogetherThatAreFollowedByTheSameUnderEqualLoad) {
  constexpr int32_t kTokens = 400;
  const std::vector<int32_t> text = TextOfKinds(kTokens);
  std::vector<int64_t> counts(kTokens, 0);
  for (int32_t token : text) ++counts[static_cast<size_t>(token)];
  const std::vector<Follower> followers = CountFollowers(text, 1 << 20);
  const std::vector<uint8_t> table = DealSimilarMembers(counts, followers, 4, 9);
  int64_t together = 0, pairs = 0;
  for (size_t a = 0; a < kTokens; ++a) {
    for (size_t b = a % 8; b < a; b += 8, ++pairs) together += table[a] == table[b];
  }
  EXPECT_GT(together, pairs * 7 / 10);  // a quarter by chance
  const auto loads = Loads(table, counts, 4);
  const auto [least, most] = std::minmax_element(loads.begin(), loads.end());
  EXPECT_LE(*most - *least, 60000 / 4 / 20);
  EXPECT_EQ(table, DealSimilarMembers(counts, followers, 4, 9));
  EXPECT_NE(table, DealSimilarMembers(counts, followers, 4, 10));
}

TEST(DealSimilarMembers, SharesOutTokensOfWhichNothingIsKnown) {
  std::vector<int64_t> tokens(8, 0);
  for (uint8_t member : DealSimilarMembers(std::vector<int64_t>(2048, 0), {}, 8, 5)) ++tokens.at(member);
  const auto [least, most] = std::minmax_element(tokens.begin(), tokens.end());
  EXPECT_LE(*most - *least, 32);
  EXPECT_EQ(DealSimilarMembers({1, 2, 3}, {}, 8, 5).size(), 3u);  // fewer tokens than members
}

}  // namespace
}  // namespace omni::train
