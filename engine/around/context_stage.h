// The memory of contexts in the decode loop: a session reads its own text along, and what followed in like
// places has a say in the next token.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/around/context_memory.h"
#include "engine/decode/token_stage.h"
#include "engine/decode/worker_pool.h"
#include "kernels/op.h"

namespace omni {

// What one session remembers, and how much that has been worth so far. It follows from the session's tokens
// and from the hidden states and logits of its own rows, in order, and from nothing else: one that reads the
// same text again, in whatever blocks, comes to the same bits. Not thread-safe; a copy goes its own way.
class SessionContexts {
 public:
  // `polytope`: the hash of that which the hidden states are projected onto, or empty. A memory that was made
  // with another is not this one.
  SessionContexts(std::shared_ptr<const ContextCode> code, std::string polytope)
      : memory_(std::move(code)), polytope_(std::move(polytope)) {}

  // Takes in the place after row.history: what came at the place before is learned, and what is recalled of
  // this one is mixed into row.logits' distribution, in `mixed`, as its logarithms, [V]. False: it has no
  // say, and `mixed` is undefined. Sets row.notes.contexts of rows not known. Rows of a session come one
  // after the other, each with one token more.
  bool Read(TokenRow& row, const kernels::Ops& ops, std::vector<float>& mixed);

  const std::string& polytope() const { return polytope_; }
  int64_t bytes() const { return memory_.bytes() + kOwnBytes; }
  // Of one whose session has so many tokens, at most.
  static int64_t MostBytes(int64_t tokens) { return ContextMemory::MostBytes(tokens) + kOwnBytes; }

 private:
  static constexpr int64_t kOwnBytes = 4096;  // weights, and the sources of the place asked about last

  ContextMemory memory_;
  GuessMixer mixer_;
  std::string polytope_;
  size_t asked_after_ = 0;  // tokens; 0: nothing was asked
};

// A decide stage. Rows without a memory are not touched, nor are the logits of those where it has no say. A
// row that has a choice already keeps it, and is only read along. Sessions are shared out over the pool.
class ContextStage : public TokenStage {
 public:
  // `pool` outlives it; null: on the caller's thread.
  explicit ContextStage(WorkerPool* pool, const kernels::Ops& ops = kernels::ActiveOps())
      : pool_(pool), ops_(ops) {}

  bool reads_states() const override { return false; }
  bool Run(std::span<TokenRow> rows, const Done& done) override;

 private:
  void ReadSession(std::span<TokenRow> rows, std::span<std::vector<float>> mixed);

  WorkerPool* const pool_;
  const kernels::Ops& ops_;
  std::vector<std::vector<float>> mixed_;  // by row of the step, [V]
};

}  // namespace omni
