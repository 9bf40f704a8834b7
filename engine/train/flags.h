// The trainer's flags: from the command line, the environment and a preset to settings.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/train/settings.h"

namespace omni::train {

// The value of an environment variable; null if it is not set.
using Environment = std::function<const char*(const std::string& name)>;

struct CommandLine {
  std::optional<std::string> help;  // what --help prints; then settings mean nothing
  TrainSettings settings;
};

// Every flag --a-b has a twin OMNI_A_B in the environment; one that is empty counts as not set. The command
// line wins over the environment, which wins over the preset. `arguments` without the program's name. Any
// error is one of usage, and names the flag or the variable that is wrong.
absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments,
                                             const Environment& environment);

// The name of a flag's twin: shared-steps is OMNI_SHARED_STEPS.
std::string TwinOf(const std::string& flag);

}  // namespace omni::train
