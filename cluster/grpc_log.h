// What gRPC writes to stderr by itself, as events of the log.
#pragma once

namespace omni {

// From now on, in the whole process. Any number of times, from any thread.
void TakeGrpcLog();

}  // namespace omni
