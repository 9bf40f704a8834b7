// The actor around CoordinatorState: owns the links to the regions, carries messages to the state and back.
#pragma once

#include "actors/coordinator_state.h"
#include "actors/messages.h"
#include "actors/region.h"

namespace omni {

// `state`, `outstanding`, to which the spawner has added it, and everything `region` refers to outlive the
// actor; `make_link` may be empty. A shutdown message ends all sessions and refuses new ones; an exit message
// ends the actor, and its regions with it.
CoordinatorActor::behavior_type Coordinator(CoordinatorActor::pointer self, CoordinatorState* state,
                                            int64_t num_regions, RegionState region, Outstanding* outstanding,
                                            LinkFactory make_link);

}  // namespace omni
