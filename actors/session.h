// One request being answered: its tokens, its sampler, its model state, and the way back to its client.
// Touched by the coordinator only (the channel is the one member that is shared).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "actors/generate.h"
#include "actors/session_channel.h"
#include "engine/model/session_state.h"
#include "engine/text/sampler.h"
#include "engine/text/tokenizer.h"

namespace omni {

class Session {
 public:
  using Clock = std::chrono::steady_clock;

  // The request has been checked by CheckRequest; the tokenizer outlives the session.
  Session(uint64_t id, GenerateRequest request, const Tokenizer& tokenizer, int64_t max_context,
          std::shared_ptr<SessionChannel> channel);

  uint64_t id() const { return id_; }

  // Allocates the model state; the session takes part in steps from now on.
  void Activate(const ModelConfig& config, Clock::time_point now);
  SessionState* state() { return state_.get(); }

  // Tokens the next steps must compute before the next sample: the rest of the prompt, or the last token
  // drawn.
  std::span<const TokenId> pending() const;
  bool decoding() const { return computed_ >= prompt_size_; }
  // Whether a step may include the session now.
  bool runnable() const { return !over() && !paused_; }

  // The first `rows` pending tokens have been computed; prompt left over is reported as progress.
  void OnComputed(int64_t rows);
  // Draws the next token from the logits of the last pending one. Changes nothing.
  Sampled Draw(std::span<const float> logits) const;
  // Appends the token drawn, streams it and, at an end, closes the session.
  void OnToken(const Sampled& sampled, Clock::time_point now);

  void Pause() { paused_ = true; }
  void Resume() { paused_ = false; }
  void Fail(const absl::Status& status);  // closes with an error; the first end wins
  void Cancel();                          // closes with what there is
  bool over() const { return over_; }

 private:
  void Finish(StopReason reason);

  uint64_t id_;
  GenerateRequest request_;
  const Tokenizer& tokenizer_;
  int64_t max_context_;
  std::shared_ptr<SessionChannel> channel_;
  StopMatcher matcher_;
  std::unique_ptr<SessionState> state_;
  std::vector<TokenId> tokens_;  // prompt and generated
  int64_t prompt_size_;
  int64_t computed_ = 0;  // tokens the state has seen
  GenerateResult result_;
  Clock::time_point created_, started_, first_token_;
  bool paused_ = false;
  bool over_ = false;
};

// What Generate refuses at once: an empty or too long prompt, ids out of range, bad settings. Messages say
// the limit.
absl::Status CheckRequest(const GenerateRequest& request, int64_t vocab, int64_t max_context);

}  // namespace omni
