// Which expert of each layer the tokens of a text went to: drawn from a distribution, or recorded from a
// model.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/model/config.h"

namespace omni {

struct RoutingTrace {
  std::array<int64_t, 3> lattice = {};
  std::vector<int64_t> layers;  // numbers of the expert layers, ascending; a layer's place is its index here
  std::vector<uint16_t> experts;  // [tokens, layers]

  int64_t places() const { return static_cast<int64_t>(layers.size()); }
  int64_t tokens() const { return places() == 0 ? 0 : static_cast<int64_t>(experts.size()) / places(); }
  int64_t At(int64_t token, int64_t place) const {
    return experts[static_cast<size_t>(token * places() + place)];
  }
  bool operator==(const RoutingTrace&) const = default;
};

// A trace without tokens of the model's shape.
RoutingTrace EmptyTrace(const ModelConfig& config);

// A walk on the torus, in every layer for itself: the first expert is any; then with 30 % the same as the
// token before, with 40 % one of its neighbours, with 15 % one two hops away, with 15 % any further one; all
// of a class alike. A class that a small lattice does not have counts as "the same". Equal on every machine.
RoutingTrace DrawTrace(const ModelConfig& config, int64_t tokens, uint64_t seed);

// The text of docs/formats/routes.md, and back. Errors begin with "NAME:LINE: ".
std::string FormatTrace(const RoutingTrace& trace);
absl::StatusOr<RoutingTrace> ParseTrace(std::string_view text, const std::string& name);

absl::Status SaveTrace(const RoutingTrace& trace, const std::string& path);  // as WriteOutput
absl::StatusOr<RoutingTrace> LoadTrace(const std::string& path);

// OK if the trace is of such a model: the same lattice and the same expert layers.
absl::Status CheckTrace(const RoutingTrace& trace, const ModelConfig& config, const std::string& name);

}  // namespace omni
