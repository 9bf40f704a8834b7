// The filled slots of a cache in order of how much their tiles are worth, for policies that rate tiles by who
// uses them.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include <absl/functional/function_ref.h>

#include "store/cache/cache_policy.h"

namespace omni {

// Tiles with the same users are worth the same: they form a group, rated and ordered as one. A model of 279
// 360 tiles has 8 640 groups: per layer one for what a region shares and one for each expert's own. A group
// is ordered within its place, that of its first user; the lowest of all is the lowest of the places' lowest.
//
// Costs: filling and evicting O(1) (plus passing by empty groups); Order O(n log n) in the groups of the
// place; Victim O(places), plus the slots that may not go.
class RankedGroups {
 public:
  RankedGroups(int64_t slots, const TileUsers& users);

  int64_t places() const { return static_cast<int64_t>(places_.size()); }
  int64_t groups() const { return static_cast<int64_t>(groups_.size()); }
  // Of the groups of one place; and of those that a table (TableNumbers) has tiles of, whatever their place.
  const std::vector<uint32_t>& InPlace(int64_t place) const { return places_[Index(place)].order; }
  const std::vector<uint32_t>& OfTable(int64_t table) const { return of_table_[Index(table)]; }
  // The tables that use a group, ascending.
  const uint32_t* UsersBegin(uint32_t group) const {
    return users_->users.data() + users_->first[Content(group)];
  }
  const uint32_t* UsersEnd(uint32_t group) const {
    return users_->users.data() + users_->first[Content(group) + 1];
  }
  int64_t PlaceOf(uint32_t group) const { return *UsersBegin(group) / users_->experts; }

  // What the group's tiles are worth; counts from the next Order of its place on. Finite.
  void SetWorth(uint32_t group, double worth) { groups_[group].worth = worth; }
  void Order(int64_t place);

  void Fill(uint32_t slot, uint32_t content);
  void Evict(uint32_t slot);
  int64_t Victim(absl::FunctionRef<bool(uint32_t)> free_to_go);

 private:
  struct Group {
    uint32_t content = 0;  // one of its tiles
    uint32_t rank = 0;     // in its place's order
    double worth = 0;
    std::vector<uint32_t> slots;  // filled with its tiles
  };
  struct Place {
    std::vector<uint32_t> order;  // groups, the least worth first
    size_t lowest = 0;            // index of the first that has slots; order.size() if none has
  };
  static constexpr double kNone = std::numeric_limits<double>::infinity();
  static size_t Index(int64_t i) { return static_cast<size_t>(i); }

  uint32_t Content(uint32_t group) const { return groups_[group].content; }
  size_t FirstFilled(const Place& place, size_t from) const;
  double WorthAt(const Place& place, size_t index) const {
    return index < place.order.size() ? groups_[place.order[index]].worth : kNone;
  }
  void SetLowest(size_t place, size_t index);

  const TileUsers* users_;
  std::vector<Group> groups_;
  std::vector<uint32_t> group_of_;               // by content
  std::vector<std::vector<uint32_t>> of_table_;  // groups
  std::vector<Place> places_;
  std::vector<double> lowest_;                  // by place: the worth of its lowest filled group
  std::vector<uint32_t> slot_group_, slot_at_;  // by slot: its group and where in its list
  std::vector<double> scratch_;                 // by place, while looking for a victim
  std::vector<size_t> scratch_at_;
};

}  // namespace omni
