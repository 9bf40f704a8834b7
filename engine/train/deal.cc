#include "engine/train/deal.h"

#include <utility>

#include "engine/train/members.h"

namespace omni::train {

std::function<std::vector<uint8_t>(uint64_t layer)> MemberDealer(const TrainSettings& s,
                                                                 const std::vector<int32_t>& text) {
  constexpr int64_t kFollowers = 4 << 20;  // places of the text that are looked at
  std::vector<int64_t> counts(static_cast<size_t>(s.config.vocab), 0);
  for (int32_t token : text) ++counts[static_cast<size_t>(token)];
  const bool similar = s.members == MemberRule::kSimilar;
  std::vector<Follower> followers = similar ? CountFollowers(text, kFollowers) : std::vector<Follower>();
  return [similar, counts = std::move(counts), followers = std::move(followers), seed = s.init.seed,
          members = s.config.experts_per_region()](uint64_t layer) {
    const uint64_t key = seed * 1000003 + layer;
    return similar ? DealSimilarMembers(counts, followers, members, key) : DealMembers(counts, members, key);
  };
}

}  // namespace omni::train
