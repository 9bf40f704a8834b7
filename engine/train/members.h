// Which member of a region answers a token, where the config's route_from is address.
#pragma once

#include <cstdint>
#include <vector>

namespace omni::train {

// A member below `members` (1 .. 256) for every token. `counts` says how often each token occurs. Tokens are
// dealt in about falling order of that, each to the member with the least load so far, so that in the end no
// two members' loads differ by more than one token's. Another key deals them in another order; the same one
// gives the same bytes everywhere.
std::vector<uint8_t> DealMembers(const std::vector<int64_t>& counts, int64_t members, uint64_t key);

}  // namespace omni::train
