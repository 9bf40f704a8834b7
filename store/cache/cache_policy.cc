#include "store/cache/cache_policy.h"

#include <algorithm>
#include <cmath>

#include "store/cache/ranked_groups.h"
#include "store/cache/torus_policy.h"

namespace omni {
namespace {

// A list of the filled slots through two arrays, the last used at its end. `slots_` stands for both ends.
class Lru : public CachePolicy {
 public:
  explicit Lru(int64_t slots)
      : slots_(static_cast<uint32_t>(slots)),
        next_(static_cast<size_t>(slots) + 1, slots_),
        previous_(static_cast<size_t>(slots) + 1, slots_) {}

  void OnFill(uint32_t slot, uint32_t) override { Append(slot); }
  void OnUse(uint32_t slot) override {
    Remove(slot);
    Append(slot);
  }
  void OnEvict(uint32_t slot) override { Remove(slot); }
  void OnExpert(int64_t, int64_t) override {}
  int64_t Victim(absl::FunctionRef<bool(uint32_t)> free_to_go) override {
    for (uint32_t slot = next_[slots_]; slot != slots_; slot = next_[slot]) {
      if (free_to_go(slot)) return slot;
    }
    return -1;
  }
  const char* name() const override { return "lru"; }

 private:
  void Append(uint32_t slot) {
    const uint32_t last = previous_[slots_];
    previous_[slot] = last, next_[slot] = slots_;
    next_[last] = slot, previous_[slots_] = slot;
  }
  void Remove(uint32_t slot) {
    next_[previous_[slot]] = next_[slot];
    previous_[next_[slot]] = previous_[slot];
  }

  uint32_t slots_;
  std::vector<uint32_t> next_, previous_;
};

// Use counts of whole groups (every use of an expert uses all tiles of its groups), each token's worth half
// as much as that of the token kHalfLife later. Orders by log2 of the count as of token 0, which changes only
// when the group is used.
class Decayed : public CachePolicy {
 public:
  Decayed(int64_t slots, const TileUsers& users)
      : groups_(slots, users),
        experts_(users.experts),
        count_(static_cast<size_t>(groups_.groups())),
        counted_at_(count_.size()) {
    for (uint32_t g = 0; g < count_.size(); ++g) groups_.SetWorth(g, kNever);
  }

  void OnFill(uint32_t slot, uint32_t content) override { groups_.Fill(slot, content); }
  void OnUse(uint32_t) override {}
  void OnEvict(uint32_t slot) override { groups_.Evict(slot); }
  void OnExpert(int64_t place, int64_t expert) override {
    if (place <= place_) ++token_;
    place_ = place;
    for (uint32_t g : groups_.OfTable(place * experts_ + expert)) {
      count_[g] = count_[g] * std::exp2((counted_at_[g] - token_) / kHalfLife) + 1;
      counted_at_[g] = token_;
      groups_.SetWorth(g, std::log2(count_[g]) + token_ / kHalfLife);
    }
    groups_.Order(place);
  }
  int64_t Victim(absl::FunctionRef<bool(uint32_t)> free_to_go) override { return groups_.Victim(free_to_go); }
  const char* name() const override { return "decayed"; }

 private:
  static constexpr double kHalfLife = 16;  // tokens
  static constexpr double kNever = -1e30;

  RankedGroups groups_;
  int64_t experts_;
  std::vector<double> count_, counted_at_;  // by group; counted_at_: a token
  int64_t place_ = -1;
  double token_ = 0;
};

}  // namespace

std::unique_ptr<CachePolicy> MakePolicy(PolicyKind kind, int64_t slots, const TileUsers& users,
                                        const ModelConfig& config) {
  switch (kind) {
    case PolicyKind::kLru:
      return std::make_unique<Lru>(slots);
    case PolicyKind::kDecayed:
      return std::make_unique<Decayed>(slots, users);
    case PolicyKind::kTorus:
      return std::make_unique<TorusPolicy>(slots, users, config);
  }
  return nullptr;
}

}  // namespace omni
