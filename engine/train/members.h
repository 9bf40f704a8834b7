// Which member of a region answers a token, where the config's route_from is address.
#pragma once

#include <cstdint>
#include <vector>

namespace omni::train {

enum class MemberRule {
  kFrequency,  // DealMembers
  kSimilar,    // DealSimilarMembers
};

// A member below `members` (1 .. 256) for every token. `counts` says how often each token occurs. Tokens are
// dealt in about falling order of that, each to the member with the least load so far, so that in the end no
// two members' loads differ by more than one token's. Another key deals them in another order; the same one
// gives the same bytes everywhere.
std::vector<uint8_t> DealMembers(const std::vector<int64_t>& counts, int64_t members, uint64_t key);

// How often a token is followed by another.
struct Follower {
  int32_t token, next;
  int64_t count;
};
// Of neighbours at about `most` places, evenly over the text; in rising order of (token, next).
std::vector<Follower> CountFollowers(const std::vector<int32_t>& text, int64_t most);

// As DealMembers, but tokens that are followed by the same tokens are dealt to the same member as long as its
// load stays within a hundredth, or one token's share, of the mean. Another key weighs followers otherwise
// and begins with other tokens.
std::vector<uint8_t> DealSimilarMembers(const std::vector<int64_t>& counts,
                                        const std::vector<Follower>& followers, int64_t members,
                                        uint64_t key);

}  // namespace omni::train
