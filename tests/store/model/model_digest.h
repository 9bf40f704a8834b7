// Everything an open model says, as text to compare.
#pragma once

#include <string>

#include "store/model/model.h"

namespace omni::testing {

// Config, every matrix, scale, norm and position, every tile of every expert, and the tokenizer, in a fixed
// order. Padding that no product reads is included: packers are deterministic.
std::string ModelContent(const Model& model);

}  // namespace omni::testing
