// Distinct integer ids, so that a layer cannot be passed where an expert is meant.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace omni {

template <typename Tag, typename Value = int32_t>
struct Id {
  Value value = 0;
  constexpr Id() = default;
  constexpr explicit Id(Value v) : value(v) {}
  constexpr auto operator<=>(const Id&) const = default;
  constexpr size_t index() const { return static_cast<size_t>(value); }
};

using LayerId = Id<struct LayerTag>;    // 0 .. layers-1
using ExpertId = Id<struct ExpertTag>;  // lattice id i + nx * (j + ny * k)
using RegionId = Id<struct RegionTag>;  // block of the lattice owned by one actor
using TokenId = Id<struct TokenTag>;    // 0 .. vocab-1
// One of those that share a source of experts; the only one, or the first, is RequesterId(0).
using RequesterId = Id<struct RequesterTag>;
using SessionId = Id<struct SessionTag, uint64_t>;  // distinct within one swarm, from 1 on

}  // namespace omni

template <typename Tag, typename Value>
struct std::hash<omni::Id<Tag, Value>> {
  size_t operator()(omni::Id<Tag, Value> id) const { return std::hash<Value>()(id.value); }
};
