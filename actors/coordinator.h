// The actor around CoordinatorState: spawns and monitors the regions, carries messages to the state and back.
#pragma once

#include <caf/all.hpp>

#include "actors/coordinator_state.h"
#include "actors/region.h"

namespace omni {

// `state` and everything `region` refers to outlive the actor, and so does `requests`. A shutdown message
// ends all sessions and refuses new ones; an exit message ends the actor, and its regions with it.
caf::behavior Coordinator(caf::event_based_actor* self, CoordinatorState* state, int64_t num_regions,
                          RegionState region, OpenRequests* requests);

}  // namespace omni
