// Adapters by name, as verbs that decode here use them.
#pragma once

#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "engine/around/adapter.h"
#include "store/model/model.h"

namespace omni::cli {

// The adapter `name` of the state directory, for this model. Errors name its file: NotFound says which there
// are, FailedPrecondition that it is another model's.
absl::StatusOr<std::unique_ptr<ReadyAdapter>> LoadAdapter(const std::string& name, const Model& model);

}  // namespace omni::cli
