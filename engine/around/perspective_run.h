// A text through all four perspectives at every token.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>

#include "engine/around/adapter.h"
#include "engine/around/perspectives.h"
#include "engine/around/safety_projection.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"
#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"
#include "kernels/op.h"

namespace omni {

struct PerspectiveRunOptions {
  PerspectiveKind kind = PerspectiveKind::kNear;
  uint64_t seed = 0;
  // Tokens predicted in all, 0: every one. Fewer than there are: documents share them equally, each from its
  // beginning, and what a short one leaves nobody gets.
  int64_t max_tokens = 0;
  int64_t parallel_documents = 16;  // share a pass; each has a state. Changes speed, never a result
  bool others = true;               // false: only the routers' own routing is computed
  // Of that, in the place of the routers and of an adapter's positions; null: they decide.
  RoutePolicy* policy = nullptr;
  const ReadyAdapter* adapter =
      nullptr;  // of all rows, and the others are chosen among its positions; null: none
  const Projector* polytope = nullptr;  // that hidden states are projected onto; null: none
  // Called by the calling thread after every pass with the share of the tokens that is done. Empty: not
  // called.
  std::function<void(double share)> progress = nullptr;
};

struct LookedToken {
  TokenId target;
  int64_t bytes = 0;                                         // of the target; none of end-of-text
  std::array<std::span<const float>, kPerspectives> logits;  // [V] each, the router's own first
  size_t document = 0;                                       // of the text
  std::span<const TokenId> history;  // of the document, with the end-of-text before it
  std::span<float> hidden;           // [d], of the router's own, projected
};

// Documents are those of EvalText, each begun at zero state after an end-of-text. `visit` gets the tokens of
// a pass, valid until it returns; their order depends on the options alone. Errors: as EvalText's.
absl::Status RunPerspectives(const ModelWeights& weights, ExpertSource& source, const Tokenizer& tokenizer,
                             WorkerPool& pool, std::string_view text, const PerspectiveRunOptions& options,
                             absl::FunctionRef<void(std::span<const LookedToken>)> visit,
                             const kernels::Ops& ops = kernels::ActiveOps());

}  // namespace omni
