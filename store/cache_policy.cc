#include "store/cache_policy.h"

#include <algorithm>

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

}  // namespace

TileUsers UsersOf(const TileContents& contents) {
  const TableNumbers& numbers = contents.numbers();
  TileUsers users;
  users.experts = numbers.experts();
  // A table that has a tile twice is one user of it: `last` is the last table counted for a tile.
  std::vector<int64_t> last(static_cast<size_t>(contents.unique()), -1);
  const auto for_each_use = [&](auto&& visit) {
    std::fill(last.begin(), last.end(), -1);
    for (int64_t table = 0; table < numbers.tables(); ++table) {
      for (int64_t t = 0; t < numbers.tiles(); ++t) {
        const uint32_t content = contents.Of(table)[t];
        if (last[content] == table) continue;
        last[content] = table;
        visit(static_cast<uint32_t>(table), content);
      }
    }
  };
  users.first.assign(static_cast<size_t>(contents.unique()) + 1, 0);
  for_each_use([&](uint32_t, uint32_t content) { ++users.first[content + 1]; });
  for (size_t i = 1; i < users.first.size(); ++i) users.first[i] += users.first[i - 1];
  users.users.resize(users.first.back());
  std::vector<uint32_t> at(users.first.begin(), users.first.end() - 1);
  for_each_use([&](uint32_t table, uint32_t content) { users.users[at[content]++] = table; });
  return users;
}

std::unique_ptr<CachePolicy> MakePolicy(PolicyKind, int64_t slots, const TileUsers&, const ModelConfig&) {
  return std::make_unique<Lru>(slots);
}

}  // namespace omni
