// What may be done between a row's hidden state and its next token:
//
//     hidden --> project stages --> logits --> decide stages --> the sampler, where nobody decided --> token
//
// A polytope changes the hidden state; perspectives and a memory look at the logits and choose.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include <absl/status/status.h>

#include "engine/base/ids.h"
#include "engine/model/session_state.h"
#include "engine/text/sampler.h"

namespace omni {

struct PerspectiveVerdict;  // engine/around/perspectives.h

// One row on its way. The spans are valid until the stage is over.
struct TokenRow {
  SessionId session;
  SessionState* state = nullptr;  // after the row's last token
  std::span<const TokenId>
      history;  // the session's tokens so far: the one to come has position history.size()
  const SamplerSettings* sampler = nullptr;
  std::span<float> hidden;        // y, [d]; what a project stage writes there becomes the logits
  std::span<const float> logits;  // [V], for decide stages; may be pointed elsewhere
  // What the four perspectives say of the token to come, if they looked; for decide stages.
  const PerspectiveVerdict* verdict = nullptr;
  std::optional<Sampled> choice;  // set by a decide stage: the sampler is not asked
  absl::Status status;            // an error ends the row's session with it
};

// Works on the rows of a step together. One step at a time, on the thread that drives the decoder.
class TokenStage {
 public:
  using Done = std::function<void()>;

  virtual ~TokenStage() = default;
  // True if it is over when it returns. False: it goes on elsewhere, and `done` is called once when it is
  // over, from another thread; `rows` stay where they are until then.
  virtual bool Run(std::span<TokenRow> rows, const Done& done) = 0;
};

}  // namespace omni
