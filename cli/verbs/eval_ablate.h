// What `omni eval ablate` measures: a model with parts of it taken away or put in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "engine/around/adapter.h"
#include "engine/around/safety_projection.h"
#include "engine/decode/worker_pool.h"
#include "store/model/model.h"

namespace omni::cli {

// Prints a line for each variant. texts are joined as documents. tokens: of each variant, each document's
// first ones; 0: all. polytope, adapter: of what is computed with everything around the token step; may be
// null.
absl::Status EvalAblate(Model& model, WorkerPool& pool, const std::vector<std::string>& texts, int64_t tokens,
                        const Projector* polytope, const ReadyAdapter* adapter, bool json);

}  // namespace omni::cli
