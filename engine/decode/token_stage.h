// What may be done between a row's hidden state and its next token:
//
//     hidden --> project stages --> logits --> decide stages --> the sampler, where nobody decided --> token
//
// A polytope changes the hidden state. Perspectives look at the logits before the decide stages, and may
// choose or replace them; a memory of texts, a decide stage, chooses where they cannot; a memory of contexts,
// the next one, mixes what it recalls into what there then is.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include <absl/status/status.h>

#include "engine/base/ids.h"
#include "engine/decode/token_notes.h"
#include "engine/model/session_state.h"
#include "engine/text/sampler.h"

namespace omni {

class Projector;            // engine/around/safety_projection.h
struct PerspectiveVerdict;  // engine/around/perspectives.h
class SessionContexts;      // engine/around/context_stage.h
class TextMemory;           // engine/around/text_memory.h

// One row on its way. The spans are valid until the stage is over.
struct TokenRow {
  SessionId session;
  SessionState* state = nullptr;  // after the row's last token
  std::span<const TokenId>
      history;  // the session's tokens so far: the one to come has position history.size()
  const SamplerSettings* sampler = nullptr;
  const Projector* polytope = nullptr;  // that its request asks for
  std::span<float> hidden;              // y, [d]; what a project stage writes there becomes the logits
  std::span<const float> logits;        // [V], for decide stages; may be pointed elsewhere
  std::span<const float> model_logits;  // [V]: of the session's own row, wherever `logits` points by then
  SessionContexts* contexts = nullptr;  // that its request asks for
  const TextMemory* stored = nullptr;   // that its request asks for
  // A row of a prompt, which is here because its session has a memory that reads along: the token to come is
  // known, and nothing is drawn.
  bool known = false;
  // What the four perspectives say of the token to come, if they looked; for decide stages.
  const PerspectiveVerdict* verdict = nullptr;
  std::optional<Sampled> choice;  // set by a decide stage: the sampler is not asked
  TokenNotes notes;
  absl::Status status;  // an error ends the row's session with it
};

// Works on the rows of a step together. One step at a time, on the thread that drives the decoder.
class TokenStage {
 public:
  using Done = std::function<void()>;

  virtual ~TokenStage() = default;
  // Whether it looks at the rows' states, which else may stay where the decoder has them.
  virtual bool reads_states() const { return true; }
  // True if it is over when it returns. False: it goes on elsewhere, and `done` is called once when it is
  // over, from another thread; `rows` stay where they are until then.
  virtual bool Run(std::span<TokenRow> rows, const Done& done) = 0;
};

}  // namespace omni
