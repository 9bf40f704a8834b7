// The actor of one block of the torus: answers RegionJobPtr with RegionReplyPtr, one job at a time.
#pragma once

#include <caf/all.hpp>

#include "actors/region_state.h"

namespace omni {

// Everything `state` refers to outlives the actor. An exception while serving ends the actor with sec::runtime_error;
// whoever monitors it starts another.
caf::behavior Region(caf::event_based_actor* self, RegionState state);

}  // namespace omni
