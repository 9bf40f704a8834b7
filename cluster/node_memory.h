// How much memory a node of a cluster opens its model with.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <absl/status/statusor.h>

#include "store/model/model.h"
#include "store/partial/partial_model.h"

namespace omni {

// `open` with its memory filled in. `offered`: bytes for experts, beside which the rest of the process comes;
// nothing: all of the model if that fits, else what is free. Errors: those of reading the model's files.
absl::StatusOr<OpenOptions> FitToOffer(const std::string& model, const PartialModel& files,
                                       std::optional<int64_t> offered, OpenOptions open);

}  // namespace omni
