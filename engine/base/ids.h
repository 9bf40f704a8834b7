// Distinct integer ids, so that a layer cannot be passed where an expert is meant.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace omni {

template <typename Tag>
struct Id {
  int32_t value = 0;
  constexpr Id() = default;
  constexpr explicit Id(int32_t v) : value(v) {}
  constexpr auto operator<=>(const Id&) const = default;
  constexpr size_t index() const { return static_cast<size_t>(value); }
};

using LayerId = Id<struct LayerTag>;    // 0 .. layers-1
using ExpertId = Id<struct ExpertTag>;  // lattice id i + nx * (j + ny * k)
using RegionId = Id<struct RegionTag>;  // block of the lattice owned by one actor
using TokenId = Id<struct TokenTag>;    // 0 .. vocab-1
// One of those that share a source of experts; the only one, or the first, is RequesterId(0).
using RequesterId = Id<struct RequesterTag>;

}  // namespace omni

template <typename Tag>
struct std::hash<omni::Id<Tag>> {
  size_t operator()(omni::Id<Tag> id) const { return std::hash<int32_t>()(id.value); }
};
