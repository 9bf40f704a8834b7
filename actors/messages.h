// Everything that travels between the actors, and nothing else. The shared pointers are handed over inside
// one process, as they are; they have no wire form.
#pragma once

#include <cstdint>
#include <memory>

#include <caf/all.hpp>

#include "actors/region_job.h"
#include "actors/region_state.h"
#include "actors/session.h"

namespace omni {
using SessionPtr = std::shared_ptr<Session>;

// To a region, from the expert source: the expert that a job of its work waits for, or why it does not
// come; or the tiles of it that are there while others are read.
struct ExpertReady {
  RegionWorkPtr work;
  size_t job = 0;
  absl::StatusOr<ExpertTiles> expert;
  bool partial = false;
  caf::actor client;  // who gets the reply
};
using ExpertReadyPtr = std::shared_ptr<const ExpertReady>;
}  // namespace omni

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::RegionJobPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::RegionReplyPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::ExpertReadyPtr)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(omni::SessionPtr)

CAF_BEGIN_TYPE_ID_BLOCK(omni, first_custom_type_id)

// To the coordinator: (submit, SessionPtr) (cancel, session id) (resume, session id) (step) (tick) (shutdown)
// and RegionReplyPtr. To a region: RegionJobPtr, ExpertReadyPtr.
CAF_ADD_ATOM(omni, omni, submit_atom, "submit")
CAF_ADD_ATOM(omni, omni, cancel_atom, "cancel")
CAF_ADD_ATOM(omni, omni, resume_atom, "resume")
CAF_ADD_ATOM(omni, omni, step_atom, "step")
CAF_ADD_ATOM(omni, omni, tick_atom, "tick")
CAF_ADD_ATOM(omni, omni, shutdown_atom, "shutdown")

CAF_END_TYPE_ID_BLOCK(omni)
