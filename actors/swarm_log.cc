#include "actors/swarm_log.h"

#include "engine/base/log.h"

namespace omni {

void LogRegionRestarted(RegionId region, std::string_view reason) {
  LogWarning("region_restarted", "region {region} was begun afresh: {reason}",
             {{"region", region.value}, {"reason", reason}});
}

void LogRegionAskedAgain(RegionId region, LayerId layer, int attempt, std::string_view reason) {
  LogInfo("region_asked_again",
          "region {region} is asked again at layer {layer}, attempt {attempt}: {reason}",
          {{"region", region.value}, {"layer", layer.value}, {"attempt", attempt}, {"reason", reason}});
}

void LogRegionGivenUp(RegionId region, LayerId layer, int attempts, std::string_view reason) {
  LogError("region_given_up", "region {region} failed {attempts} times at layer {layer}: {reason}",
           {{"region", region.value}, {"layer", layer.value}, {"attempts", attempts}, {"reason", reason}});
}

void LogRegionMoved(RegionId region, uint64_t epoch) {
  LogInfo("region_moved", "region {region} is answered by another since epoch {epoch}",
          {{"region", region.value}, {"epoch", epoch}});
}

void LogSessionRefused(SessionId session, const absl::Status& status) {
  LogInfo("session_refused", "session {session} was refused: {reason}",
          {{"session", session.value}, {"reason", status.message()}});
}

void LogSessionQueued(SessionId session, std::string_view reason) {
  LogDebug("session_queued", "session {session} waits: {reason}",
           {{"session", session.value}, {"reason", reason}});
}

void LogSessionFailed(SessionId session, int64_t tokens, const absl::Status& status) {
  LogInfo("session_failed", "session {session} ended after {tokens} tokens: {reason}",
          {{"session", session.value}, {"tokens", tokens}, {"reason", status.message()}});
}

void LogSwarmAborted(int64_t sessions, const absl::Status& status) {
  LogError("swarm_aborted", "{sessions} sessions were given up: {reason}",
           {{"sessions", sessions}, {"reason", status.message()}});
}

}  // namespace omni
