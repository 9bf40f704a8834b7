// The stage that projects hidden states onto the polytopes that their requests ask for.
#pragma once

#include <span>

#include "engine/decode/token_stage.h"
#include "engine/decode/worker_pool.h"
#include "kernels/op.h"

namespace omni {

// A project stage. Rows without a polytope are not touched, and a row inside its polytope keeps every bit;
// of all rows with one, `notes.safety` says what was done. A row ends with an error if its projection does
// not exist. Rows are shared out over the pool; none depends on another.
class SafetyStage : public TokenStage {
 public:
  // `pool` outlives it; null: on the caller's thread.
  explicit SafetyStage(WorkerPool* pool, const kernels::Ops& ops = kernels::ActiveOps())
      : pool_(pool), ops_(ops) {}

  bool reads_states() const override { return false; }
  bool Run(std::span<TokenRow> rows, const Done& done) override;

 private:
  WorkerPool* const pool_;
  const kernels::Ops& ops_;
};

}  // namespace omni
