// What the programs that train have in common: their flags, messages, exit codes and interrupts.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "engine/train/settings.h"

namespace omni::train {

using Trainer = std::function<absl::Status(const TrainSettings& settings, const std::function<bool()>& stop)>;

// The program `name` (omni-train), with its arguments; `begin` is called when they are known to be right.
// Returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Throws nothing.
int TrainProgram(const std::string& name, const std::vector<std::string>& arguments,
                 const std::function<void()>& begin, const Trainer& train);

}  // namespace omni::train
