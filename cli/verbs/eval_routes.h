// `omni eval routes`: what the routes of texts are like.
#pragma once

#include <string>
#include <vector>

#include <absl/status/status.h>

#include "engine/decode/worker_pool.h"
#include "store/model/model.h"

namespace omni::cli {

// Follows the texts, named by `files`, through the model in the directory `path` and prints what there is to
// say of their routes. With `carry` a text is one piece, else each of its documents begins anew.
// A text without tokens is an error that names it.
absl::Status EvalRoutes(const std::string& path, Model& model, WorkerPool& pool,
                        const std::vector<std::string>& files, const std::vector<std::string>& texts,
                        bool carry, bool json);

}  // namespace omni::cli
