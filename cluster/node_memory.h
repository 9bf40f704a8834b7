// How much memory a node of a cluster opens its model with.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <absl/status/statusor.h>

#include "actors/swarm.h"
#include "store/model/model.h"
#include "store/partial/partial_model.h"

namespace omni {

// For which sessions memory is planned: none, where the model is opened without shared weights; else one at
// least, and up to all that may be active at once, each with perspectives and a memory of contexts.
void PlanSessions(const ModelConfig& config, const SwarmOptions& swarm, OpenOptions& open);

// `open` with its memory filled in. `offered`: bytes for experts, beside which the rest of the process comes;
// nothing: all of the model if that fits, else what is free. Errors: those of reading the model's files.
absl::StatusOr<OpenOptions> FitToOffer(const std::string& model, const PartialModel& files,
                                       std::optional<int64_t> offered, OpenOptions open);

}  // namespace omni
