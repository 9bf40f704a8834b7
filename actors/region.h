// The actor of one block of the torus: answers RegionRequestPtr with RegionReplyPtr. While experts of a
// request come from disk it serves other messages; it never waits.
#pragma once

#include "actors/messages.h"
#include "actors/outstanding.h"
#include "actors/region_state.h"

namespace omni {

// Everything `state` refers to outlives the actor, and so does `outstanding`, to which its spawner has added
// it. An exception while serving ends the actor with sec::runtime_error; whoever monitors it starts another.
RegionActor::behavior_type Region(RegionActor::pointer self, RegionState state, Outstanding* outstanding);

}  // namespace omni
