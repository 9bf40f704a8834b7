// Learning byte-pair merges.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace omni {

// Up to `count` merges (left id, right id) in rank order: each time the pair of neighbours, inside
// pre-tokens, that occurs most often; of equally frequent pairs the one with the lower left id, then the
// lower right id. Merge i makes the id first_id + i; single bytes are ids 0..255. Ends early when no pair
// occurs twice. The result depends on the arguments alone. text: at most 2^31 - 1 bytes. Memory: about 100
// bytes for each byte of distinct pre-tokens.
std::vector<std::pair<int32_t, int32_t>> LearnMerges(std::string_view text, int64_t count, int32_t first_id);

}  // namespace omni
