// What `omni eval gate` compares with stored limits, and `omni eval lambada` measures.
#pragma once

#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/decode/worker_pool.h"
#include "store/model/model.h"

namespace omni::cli {

// One line of a gate's file (docs/formats/gate.md).
struct GateCheck {
  std::string measure, text;  // text: a path as it can be opened
  std::string allowed, deny;  // of polytopes: paths likewise
  int64_t tokens = 0;         // of what takes them; 0: all
  double limit = 0;
  bool at_most = false;  // else it is the least
};

// The checks of the file `path`; errors name it, and the check by its number.
absl::StatusOr<std::vector<GateCheck>> ReadGate(const std::string& path);

// Prints every check with what was measured; true if none falls short.
absl::StatusOr<bool> EvalGate(const std::string& path, Model& model, WorkerPool& pool,
                              const std::vector<GateCheck>& checks, bool json);

// Prints accuracy and perplexity of the last words of each file's passages.
absl::Status EvalLambada(Model& model, WorkerPool& pool, const std::vector<std::string>& files,
                         const std::vector<std::string>& texts, bool json);

}  // namespace omni::cli
