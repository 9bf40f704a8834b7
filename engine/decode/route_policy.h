// Who decides where a row goes: the router, unless the row brings a policy of its own.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/base/ids.h"
#include "engine/decode/router.h"
#include "engine/model/config.h"

namespace omni {

// What a policy may look at when a row stands before an expert layer.
struct RouteChoice {
  LayerId layer;
  int64_t position = 0;              // of the row in its sequence
  TorusPoint point;                  // where the router sees the row
  ExpertId nearest;                  // the router's own choice
  const float* positions = nullptr;  // of the layer's experts: [experts, 3]
  int64_t experts = 0;
  const float* bias = nullptr;  // what the router takes off squared distances: [experts], or null
  const ModelConfig* config = nullptr;
};

// Replaces the router's choice for the rows that name it (perspectives, measurements). Called on the thread
// that drives the decoder, one row after another in row order, so that a policy may keep state. It outlives
// the pass.
class RoutePolicy {
 public:
  virtual ~RoutePolicy() = default;
  // Called when the row's token starts, once for each expert layer, in order, where the row is the first of
  // its session in the batch: as KnownBefore, for policies that know so early. Where a policy does not know,
  // the router's own choice is announced, if that is known.
  virtual std::optional<ExpertId> KnownAtStart(LayerId /*layer*/, int64_t /*position*/) {
    return std::nullopt;
  }
  // Called when an expert layer has chosen for the session's last row in the batch: the expert that Choose
  // will name there for the row after it, if that is known already.
  virtual std::optional<ExpertId> KnownNext(LayerId /*layer*/, int64_t /*position*/) { return std::nullopt; }
  // Called once before each expert layer of the row: the expert that Choose will name, if that is known
  // already. It is read ahead.
  virtual std::optional<ExpertId> KnownBefore(LayerId /*layer*/, int64_t /*position*/) {
    return std::nullopt;
  }
  // An expert of the layer: its id is below choice.experts.
  virtual ExpertId Choose(const RouteChoice& choice) = 0;
};

}  // namespace omni
