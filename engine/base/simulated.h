// What the simulator needs of the product's states, and nobody else pays for: marks on branches that are
// rarely taken, so that a run can prove that it took them, and switches that put a known fault into a state,
// so that a run can prove that it finds them. Both are nothing at all unless OMNI_SIMULATION is defined, with
// which only the simulator's own copy of the states is built.
#pragma once

#ifdef OMNI_SIMULATION

namespace omni::simulation {

// In the order of the states in which they stand.
#define OMNI_MARKS(X)            \
  X(kRegionAnswerIgnored)        \
  X(kRegionMovedWhileAsked)      \
  X(kRegionAskedAgain)           \
  X(kRegionTimedOut)             \
  X(kRegionGivenUp)              \
  X(kSessionResumed)             \
  X(kHedgeSent)                  \
  X(kHedgeWon)                   \
  X(kHedgeWithheld)              \
  X(kAskedElsewhereAtOnce)       \
  X(kNodeSuspect)                \
  X(kHostOldTermHello)           \
  X(kHostOtherClusterHello)      \
  X(kHostJoinedAnotherCluster)   \
  X(kHostOldTermRequest)         \
  X(kHostWrongEpoch)             \
  X(kHostNotAllHere)             \
  X(kHostOldAssign)              \
  X(kHostOldTermAssign)          \
  X(kHostStreamGoneBeforeAnswer) \
  X(kHostCancelled)              \
  X(kPeerConnectTimeout)         \
  X(kPeerSilent)                 \
  X(kPeerLostWithRequests)       \
  X(kPeerRefused)                \
  X(kPeerAnswerUnasked)          \
  X(kPeerFailedExpert)           \
  X(kCommitRefused)              \
  X(kCommitUnknown)              \
  X(kReadFoundOtherLeader)       \
  X(kNodeForgotten)              \
  X(kFailover)                   \
  X(kMigrated)                   \
  X(kMigrationCancelled)         \
  X(kElectionLost)               \
  X(kElectionUnknown)            \
  X(kLeaseRanOut)                \
  X(kOwnLeaseTakenOver)          \
  X(kLeaderWatchBroke)           \
  X(kStoreUnknownPersisted)      \
  X(kStoreUnknownLost)           \
  X(kLogBegunBefore)             \
  X(kLogDeposed)

#define OMNI_PLANTS(X)            \
  X(kNone)                        \
  X(kEpochUncheckedByNode)        \
  X(kEpochUncheckedByCoordinator) \
  X(kShownBeforeLogged)           \
  X(kAcknowledgedUnsynced)        \
  X(kLeaseMarginIgnored)          \
  X(kCommitWithoutLeader)         \
  X(kSecondAnswerAdded)           \
  X(kLostRequestsUnreported)      \
  X(kLogForgetsLastRecord)        \
  X(kResumedFromWrongPosition)    \
  X(kOldAssignObeyed)             \
  X(kOldCoordinatorObeyed)        \
  X(kOtherClusterObeyed)

// Of the tasks, which have a simulation of their own.
#define OMNI_TASK_MARKS(X)             \
  X(kLateReport)                       \
  X(kReportedAgain)                    \
  X(kSubmittedAgain)                   \
  X(kLeaseRanOut)                      \
  X(kScheduleSkipped)                  \
  X(kChildOverBeforeItsTurn)           \
  X(kChildRetriedWhileItStops)         \
  X(kSucceededChildKept)               \
  X(kRetriedWhileChildrenAreCancelled) \
  X(kOrphansCancelledLater)            \
  X(kPurgedInSteps)                    \
  X(kRetentionOver)

#define OMNI_TASK_PLANTS(X) \
  X(kNone)                  \
  X(kTokenReused)           \
  X(kTokenCounted)          \
  X(kLateReportTaken)       \
  X(kHeartbeatIgnored)      \
  X(kReportTakenTwice)      \
  X(kLeaseNeverEnds)        \
  X(kDelayedForgotten)      \
  X(kChildrenMadeAgain)     \
  X(kChildCountedTwice)     \
  X(kCancelledWhenOver)     \
  X(kKeyForgotten)          \
  X(kKeyContentUnchecked)   \
  X(kToldUnwritten)

#define OMNI_NAME(name) name,
enum class Mark { OMNI_MARKS(OMNI_NAME) kCount };
enum class Plant { OMNI_PLANTS(OMNI_NAME) kCount };
enum class TaskMark { OMNI_TASK_MARKS(OMNI_NAME) kCount };
enum class TaskPlant { OMNI_TASK_PLANTS(OMNI_NAME) kCount };
#undef OMNI_NAME

void Reached(Mark mark);
bool Planted(Plant plant);
void Reached(TaskMark mark);
bool Planted(TaskPlant plant);

}  // namespace omni::simulation

#define OMNI_REACHED(mark) ::omni::simulation::Reached(::omni::simulation::Mark::mark)
#define OMNI_PLANTED(plant) ::omni::simulation::Planted(::omni::simulation::Plant::plant)
#define OMNI_TASK_REACHED(mark) ::omni::simulation::Reached(::omni::simulation::TaskMark::mark)
#define OMNI_TASK_PLANTED(plant) ::omni::simulation::Planted(::omni::simulation::TaskPlant::plant)

#else

#define OMNI_REACHED(mark) static_cast<void>(0)
#define OMNI_PLANTED(plant) false
#define OMNI_TASK_REACHED(mark) static_cast<void>(0)
#define OMNI_TASK_PLANTED(plant) false

#endif
