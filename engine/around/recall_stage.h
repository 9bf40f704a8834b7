// The memory of texts in the decode loop: where perspectives disagree and no two name the same token, it is
// asked, and what it recalls goes on the text.
#pragma once

#include <span>
#include <string>

#include "engine/decode/token_stage.h"
#include "engine/decode/worker_pool.h"
#include "engine/text/tokenizer.h"
#include "kernels/op.h"

namespace omni {

// The end of a session's text that a memory is asked about.
std::string RecallText(const Tokenizer& tokenizer, std::span<const TokenId> history);

// A decide stage. Of rows with a memory (`stored`) whose verdict is uncertain it sets `notes.recall`, and
// where something is recalled its first token as the choice. Others are not touched. Rows are shared out over
// the pool; none depends on another, and each follows from the row's tokens and its memory alone.
class RecallStage : public TokenStage {
 public:
  // `tokenizer` outlives it, `pool` too; null: on the caller's thread.
  RecallStage(const Tokenizer& tokenizer, WorkerPool* pool, const kernels::Ops& ops = kernels::ActiveOps())
      : tokenizer_(tokenizer), pool_(pool), ops_(ops) {}

  bool reads_states() const override { return false; }
  bool Run(std::span<TokenRow> rows, const Done& done) override;

 private:
  void Decide(TokenRow& row) const;

  const Tokenizer& tokenizer_;
  WorkerPool* const pool_;
  const kernels::Ops& ops_;
};

}  // namespace omni
