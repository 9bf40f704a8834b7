// The directory of a run: checkpoint/ and, while that is replaced, checkpoint.tmp/ and checkpoint.old/;
// log.jsonl and plot.svg beside them.
#pragma once

#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni::train {

// Makes RUN if it is not there, and finds out before the training whether a checkpoint can be written there:
// refuses a folder that is not writable, and a RUN/checkpoint where something is mounted, which no rename can
// replace. Refuses a run that is there already unless `resume`, and one that is not there if so. Finishes a
// replacement that was cut off.
absl::Status PrepareRunDirectory(const std::string& run, bool resume);

// An empty RUN/checkpoint.tmp to write a checkpoint to; its path. Every file in it must be synced.
absl::StatusOr<std::string> BeginCheckpoint(const std::string& run);
// Replaces RUN/checkpoint by it. Killed or cut off from power at any point, the one before it is still whole,
// or the new one is there.
absl::Status CommitCheckpoint(const std::string& run);
// Gives up what was begun.
void DropCheckpoint(const std::string& run);

}  // namespace omni::train
