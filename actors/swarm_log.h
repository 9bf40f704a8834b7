// What the log says of a swarm: each call is one event of docs/operations.md, "Log". From any thread.
#pragma once

#include <cstdint>
#include <string_view>

#include <absl/status/status.h>

#include "engine/base/ids.h"

namespace omni {

// A region was lost or gave no answer, and another was put in its place.
void LogRegionRestarted(RegionId region, std::string_view reason);
// The request under way is sent again; `attempt` is the one that begins, 2 or more.
void LogRegionAskedAgain(RegionId region, LayerId layer, int attempt, std::string_view reason);
// All attempts were in vain: the sessions that waited for it end with an error.
void LogRegionGivenUp(RegionId region, LayerId layer, int attempts, std::string_view reason);
// It is answered by another from now on.
void LogRegionMoved(RegionId region, uint64_t epoch);

// Never admitted; its caller was told the status.
void LogSessionRefused(SessionId session, const absl::Status& status);
// Waits for a place or for memory for its state.
void LogSessionQueued(SessionId session, std::string_view reason);
// Ended by an error after `tokens` tokens; its caller was told the status.
void LogSessionFailed(SessionId session, int64_t tokens, const absl::Status& status);

// The coordinator gave up all sessions.
void LogSwarmAborted(int64_t sessions, const absl::Status& status);

}  // namespace omni
