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

}  // namespace
}  // namespace omni::train
