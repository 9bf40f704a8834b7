#include "store/cache/ranked_groups.h"

#include <algorithm>
#include <string_view>

#include <absl/container/flat_hash_map.h>

namespace omni {

RankedGroups::RankedGroups(int64_t slots, const TileUsers& users)
    : users_(&users), group_of_(Index(users.contents())), slot_group_(Index(slots)), slot_at_(Index(slots)) {
  // The bytes of a list of users are the key.
  absl::flat_hash_map<std::string_view, uint32_t> number;
  for (int64_t content = 0; content < users.contents(); ++content) {
    const uint32_t begin = users.first[Index(content)], end = users.first[Index(content) + 1];
    const std::string_view key(reinterpret_cast<const char*>(users.users.data() + begin),
                               (end - begin) * sizeof(uint32_t));
    const auto [at, fresh] = number.try_emplace(key, static_cast<uint32_t>(groups_.size()));
    group_of_[Index(content)] = at->second;
    if (!fresh) continue;
    Group& group = groups_.emplace_back();
    group.content = static_cast<uint32_t>(content);
    for (uint32_t i = begin; i < end; ++i) {
      const size_t table = users.users[i];
      if (of_table_.size() <= table) of_table_.resize(table + 1);
      of_table_[table].push_back(at->second);
    }
  }
  const size_t experts = Index(users.experts);
  of_table_.resize((of_table_.size() + experts - 1) / experts * experts);
  places_.resize(of_table_.size() / experts);
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    Place& place = places_[Index(PlaceOf(g))];
    groups_[g].rank = static_cast<uint32_t>(place.order.size());
    place.order.push_back(g);
  }
  for (Place& place : places_) place.lowest = place.order.size();
  lowest_.assign(places_.size(), kNone);
}

size_t RankedGroups::FirstFilled(const Place& place, size_t from) const {
  while (from < place.order.size() && groups_[place.order[from]].slots.empty()) ++from;
  return from;
}

void RankedGroups::SetLowest(size_t place, size_t index) {
  places_[place].lowest = index;
  lowest_[place] = WorthAt(places_[place], index);
}

void RankedGroups::Order(int64_t number) {
  Place& place = places_[Index(number)];
  std::sort(place.order.begin(), place.order.end(), [&](uint32_t a, uint32_t b) {
    return groups_[a].worth != groups_[b].worth ? groups_[a].worth < groups_[b].worth : a < b;
  });
  for (size_t i = 0; i < place.order.size(); ++i) groups_[place.order[i]].rank = static_cast<uint32_t>(i);
  SetLowest(Index(number), FirstFilled(place, 0));
}

void RankedGroups::Fill(uint32_t slot, uint32_t content) {
  const uint32_t g = group_of_[content];
  Group& group = groups_[g];
  slot_group_[slot] = g;
  slot_at_[slot] = static_cast<uint32_t>(group.slots.size());
  group.slots.push_back(slot);
  const size_t place = Index(PlaceOf(g));
  if (group.rank < places_[place].lowest) SetLowest(place, group.rank);
}

void RankedGroups::Evict(uint32_t slot) {
  const uint32_t g = slot_group_[slot];
  Group& group = groups_[g];
  const uint32_t last = group.slots.back();
  group.slots[slot_at_[slot]] = last;
  slot_at_[last] = slot_at_[slot];
  group.slots.pop_back();
  const size_t place = Index(PlaceOf(g));
  if (group.slots.empty() && group.rank == places_[place].lowest) {
    SetLowest(place, FirstFilled(places_[place], group.rank));
  }
}

int64_t RankedGroups::Victim(absl::FunctionRef<bool(uint32_t)> free_to_go) {
  // Places merge, each in its own order; the scratch says how far each has been looked through.
  bool started = false;
  const std::vector<double>* lowest = &lowest_;
  for (;;) {
    const auto place =
        static_cast<size_t>(std::min_element(lowest->begin(), lowest->end()) - lowest->begin());
    if (place == lowest->size() || (*lowest)[place] == kNone) return -1;
    const Place& of = places_[place];
    const size_t at = started ? scratch_at_[place] : of.lowest;
    const std::vector<uint32_t>& slots = groups_[of.order[at]].slots;
    for (size_t i = slots.size(); i-- > 0;) {
      if (free_to_go(slots[i])) return slots[i];
    }
    if (!started) {
      started = true;
      scratch_ = lowest_;
      scratch_at_.resize(places_.size());
      for (size_t p = 0; p < places_.size(); ++p) scratch_at_[p] = places_[p].lowest;
      lowest = &scratch_;
    }
    scratch_at_[place] = FirstFilled(of, at + 1);
    scratch_[place] = WorthAt(of, scratch_at_[place]);
  }
}

}  // namespace omni
