// gRPC's timers and small tasks on one thread, which is there while there are any, in the place of the four
// that its own engine keeps for them.
#pragma once

namespace omni {

// For all of the process, and before it uses gRPC otherwise; a second call changes nothing.
void KeepGrpcTimersOnOneThread();

}  // namespace omni
