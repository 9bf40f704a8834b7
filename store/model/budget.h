// How much of a machine's memory a model may take, and whether it is kept whole: one rule for every verb and
// server.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <absl/status/statusor.h>

#include "store/model/model.h"
#include "store/plan/machine.h"

namespace omni {

// Completes `options` for the model directory `path`.
//
// With `ram_bytes`, what the process may take: streamed within it. Without: whole if three quarters of what
// is free hold the model and the states of options.sessions, else streamed within so much; where the system
// does not say what is free, whole. A caller who asks for streaming gets it (options.residency), within 4 GiB
// if nobody knows better. ResourceExhausted if nobody gave a budget and what is free is too little: the
// message names the model and the least that works.
absl::StatusOr<OpenOptions> FitToMemory(const std::string& path, std::optional<int64_t> ram_bytes,
                                        OpenOptions options, const Machine& machine = Machine());

}  // namespace omni
