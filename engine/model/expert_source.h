// Where a region's experts come from, whatever keeps them: memory, a cache in front of a disk, a test.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/base/ids.h"

namespace omni {

// One expert of one layer, resident: its tiles in neuron order, kept alive by `keep`.
struct ExpertTiles {
  std::span<const uint8_t* const> tiles;  // TilesPerExpert(config) pointers
  std::shared_ptr<const void> keep;
  // If not empty, some tiles have been read and not yet checked: none may be used before `check` of its
  // number was OK. Whoever computes with a tile does that, since then its bytes come to his processor once.
  // Thread-safe.
  std::function<absl::Status(int64_t tile)> check = nullptr;
};

// Thread-safe.
//
// A requester is whoever walks through the layers in order: a coordinator. Several may share a source, each
// under an id of its own, and what one says of the layers to come changes nothing for the others.
// What is said of experts before they are asked for.
enum class Foresight {
  kGuess,        // they may be: read where nothing better is to be read
  kKnown,        // they will be, if the step goes on
  kRegionKnown,  // an expert of their regions will be: what all of a region's experts have in common is read
};

class ExpertSource {
 public:
  using OnReady = std::function<void(absl::StatusOr<ExpertTiles>)>;
  using OnPartial = std::function<void(ExpertTiles)>;

  virtual ~ExpertSource() = default;
  // Waits until the expert is in memory and checked. What is acquired and not let go of may keep others
  // waiting: a caller holds one expert at a time, unless resident().
  virtual absl::StatusOr<ExpertTiles> Acquire(LayerId layer, ExpertId expert) = 0;
  // Whether every expert is in memory all the time, so that nothing ever waits.
  virtual bool resident() const { return true; }
  // Never waits: `on_ready` is called once, on this thread if the expert is in memory, else later from
  // another, be it the source's or one that lets go of an expert, which it must not hold up. Any number of
  // requests may be under way. `on_partial`, if not empty, may be called any number of times before
  // `on_ready`, on any thread, and is let go of by then: with tiles that are in memory while others are not,
  // null for the others. `on_ready` is called with all of them nevertheless.
  virtual void Request(RequesterId /*requester*/, LayerId layer, ExpertId expert, const OnReady& on_ready,
                       const OnPartial& /*on_partial*/ = {}) {
    on_ready(Acquire(layer, expert));
  }
  // The requester may or will soon ask for these experts of a layer; takes the place of what it said of that
  // layer before. Changes nothing but times.
  virtual void ReadAhead(RequesterId, LayerId, std::span<const ExpertId>, Foresight) {}
  // The requester will ask no more: its guesses are void. It may come back.
  virtual void ForgetRequester(RequesterId) {}
};

}  // namespace omni
