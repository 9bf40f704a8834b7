// Everything that travels between the actors, and what each of them takes: the compiler checks every send
// against it. The shared pointers are handed over inside one process, as they are; what crosses a process has
// a wire form of its own (region_link.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <caf/all.hpp>

#include "actors/region_link.h"
#include "actors/region_state.h"
#include "actors/session.h"
#include "actors/session_snapshot.h"

namespace omni {

using SessionPtr = std::shared_ptr<Session>;

// To a region, from its expert source; with it, who gets the reply.
struct ExpertReady {
  ExpertArrival arrival;
  caf::strong_actor_ptr client;
};
using ExpertReadyPtr = std::shared_ptr<const ExpertReady>;

// A question to the coordinator from a thread that waits for the answer.
struct SnapshotQuestion {
  SessionId session;
  SnapshotPromise promise;
};
using SnapshotQuestionPtr = std::shared_ptr<SnapshotQuestion>;

}  // namespace omni

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::RegionRequestPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::RegionReplyPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::ExpertReadyPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::SessionPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::SnapshotQuestionPtr)

CAF_BEGIN_TYPE_ID_BLOCK(omni, first_custom_type_id)

CAF_ADD_ATOM(omni, omni, submit_atom, "submit")      // a session wants to take part
CAF_ADD_ATOM(omni, omni, cancel_atom, "cancel")      // its client has had enough
CAF_ADD_ATOM(omni, omni, resume_atom, "resume")      // its client has caught up
CAF_ADD_ATOM(omni, omni, snapshot_atom, "snapshot")  // what it would take to go on with it elsewhere
CAF_ADD_ATOM(omni, omni, step_atom, "step")          // take the next step
CAF_ADD_ATOM(omni, omni, part_atom, "part")          // a part of the step that went on elsewhere is over
CAF_ADD_ATOM(omni, omni, tick_atom, "tick")          // look at the clock
CAF_ADD_ATOM(omni, omni, wake_atom, "wake")          // a link wants to look at its clock
CAF_ADD_ATOM(omni, omni, lost_atom, "lost")          // a region's link broke
CAF_ADD_ATOM(omni, omni, moved_atom, "moved")        // a region is served by somebody else
CAF_ADD_ATOM(omni, omni, shutdown_atom, "shutdown")  // end all sessions, take no more

CAF_END_TYPE_ID_BLOCK(omni)

namespace omni {

// Whoever asks a region.
using RegionClientActor = caf::typed_actor<caf::reacts_to<RegionReplyPtr>>;

// A region answers each RegionRequestPtr with a RegionReplyPtr to its sender.
using RegionActor = caf::typed_actor<caf::reacts_to<RegionRequestPtr>, caf::reacts_to<ExpertReadyPtr>>;

// Sessions go by SessionId::value, regions by RegionId::value.
using CoordinatorActor =
    caf::typed_actor<caf::reacts_to<RegionReplyPtr>, caf::reacts_to<lost_atom, int32_t, std::string>,
                     caf::reacts_to<moved_atom, int32_t, uint64_t>, caf::reacts_to<submit_atom, SessionPtr>,
                     caf::reacts_to<cancel_atom, uint64_t>, caf::reacts_to<resume_atom, uint64_t>,
                     caf::reacts_to<snapshot_atom, SnapshotQuestionPtr>, caf::reacts_to<step_atom>,
                     caf::reacts_to<part_atom>, caf::reacts_to<tick_atom>, caf::reacts_to<wake_atom>,
                     caf::reacts_to<shutdown_atom>>;

}  // namespace omni
