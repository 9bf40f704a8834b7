// One request being answered: its tokens, its sampler, its model state, and the way back to its client.
// Touched by the coordinator only (the channel is the one member that is shared).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "actors/generate.h"
#include "actors/session_channel.h"
#include "actors/session_snapshot.h"
#include "engine/around/adapter.h"
#include "engine/around/context_stage.h"
#include "engine/model/session_state.h"
#include "engine/text/sampler.h"
#include "engine/text/tokenizer.h"

namespace omni {

// What a request asks for beside the model.
struct SessionExtras {
  std::shared_ptr<const Projector> polytope;
  std::shared_ptr<const ReadyAdapter> adapter;
  std::shared_ptr<const ContextCode> code;  // if it asks for a memory of contexts
  std::shared_ptr<const TextMemory> stored;
};

class Session {
 public:
  using Clock = std::chrono::steady_clock;

  // The request has been checked by CheckRequest; the tokenizer outlives the session. `from`, if not null, is
  // what the session goes on from: the request's prompt, which may then be empty, comes after the snapshot's
  // tokens. A snapshot of another adapter, without the memory of contexts that the request asks for, or with
  // one that was made with another polytope, is gone on from by its tokens alone: they are computed again, to
  // the same bits.
  Session(SessionId id, GenerateRequest request, const Tokenizer& tokenizer, int64_t max_context,
          std::shared_ptr<SessionChannel> channel, SnapshotPtr from = nullptr, SessionExtras extras = {});

  SessionId id() const { return id_; }
  RoutePolicy* route_policy() const {
    if (request_.route_policy != nullptr || extras_.adapter == nullptr) return request_.route_policy;
    return extras_.adapter->policy();
  }
  const ReadyAdapter* adapter() const { return extras_.adapter.get(); }
  const RowAdapter* row_adapter() const {
    return extras_.adapter == nullptr ? nullptr : &extras_.adapter->rows();
  }
  const std::string& caller() const { return request_.caller; }
  int32_t alternatives() const { return request_.alternatives; }
  bool tells_routes() const { return request_.routes; }
  bool embeds() const { return request_.embed; }
  const std::optional<PerspectiveSettings>& perspectives() const { return request_.perspectives; }
  // That a step may need for it, its own included. asides: whether the decoder takes such rows.
  int64_t states(bool asides) const {
    if (!request_.perspectives.has_value()) return 1;
    return asides ? 2 : kPerspectives;
  }
  // That its memory of contexts may take at most, all its life.
  int64_t context_bytes() const { return context_bytes_; }

  // Makes the model state, or a copy of the snapshot's; the session takes part in steps from now on.
  // ResourceExhausted if there is no memory for it.
  absl::Status Activate(const ModelConfig& config, Clock::time_point now);
  SessionState* state() { return state_.has_value() ? &*state_ : nullptr; }

  // Tokens the next steps must compute before the next sample: the rest of the prompt, or the last token
  // drawn.
  std::span<const TokenId> pending() const;
  bool decoding() const { return computed_ >= prompt_size_; }
  // Whether a step may include the session now.
  bool runnable() const { return !over() && !paused_; }

  // A step has begun that computes pending tokens; OnComputed ends it.
  void BeginStep() { stepping_ = true; }
  // y of the next prompt row, [d], of a session that embeds; before the OnComputed that counts the row.
  void OnHidden(std::span<const float> y);
  // The first `rows` pending tokens have been computed; prompt left over is reported as progress. With its
  // prompt's last row, an embedding is closed.
  void OnComputed(int64_t rows);
  // The step is over, by OnComputed or given up: the same tokens are then pending.
  void EndStep();
  // The state is lost: the session goes on as if all its tokens so far were a prompt, to the same bytes.
  // Errors as Activate's.
  absl::Status Recompute(const ModelConfig& config);
  // For the stages between hidden state and token.
  std::span<const TokenId> tokens() const { return tokens_; }
  const SamplerSettings& sampler() const { return request_.sampler; }
  const Projector* polytope() const { return extras_.polytope.get(); }
  const TextMemory* stored() const { return extras_.stored.get(); }
  SessionContexts* contexts() const { return contexts_.get(); }  // once active; null: none is asked for
  // Appends the token drawn, streams it and, at an end, closes the session.
  void OnToken(const Sampled& sampled, Clock::time_point now, std::vector<Sampled> alternatives = {},
               std::vector<ExpertId> routes = {}, std::optional<TokenConfidence> confidence = {},
               const TokenNotes& notes = {});

  // Between two steps, once the session is active: all that it is, the state copied.
  // Unavailable: the state was on a device that is lost.
  absl::StatusOr<SnapshotPtr> Snapshot();

  void Pause() { paused_ = true; }
  void Resume() { paused_ = false; }
  void Fail(const absl::Status& status);  // closes with an error; the first end wins
  // Closes with what there is. In a step, a session that keeps its state ends when the step does
  // (OnComputed).
  void Cancel();
  bool over() const { return over_; }

 private:
  void Finish(StopReason reason);
  void FinishEmbedding();
  SessionSnapshot Describe(SessionState state, std::shared_ptr<const SessionContexts> contexts) const;

  SessionId id_;
  GenerateRequest request_;
  const Tokenizer& tokenizer_;
  int64_t max_context_;
  std::shared_ptr<SessionChannel> channel_;
  const SessionExtras extras_;
  SnapshotPtr from_;  // until the session is active
  StopMatcher matcher_;
  std::optional<SessionState> state_;
  std::unique_ptr<SessionContexts> contexts_;
  int64_t context_bytes_ = 0;
  std::vector<TokenId> tokens_;  // prompt and generated
  int64_t prompt_size_ = 0;      // tokens that need not be drawn
  int64_t computed_ = 0;         // tokens the state has seen
  int64_t generated_ = 0;        // tokens at the end that were drawn, by earlier sessions of the snapshot too
  std::vector<double> hidden_sum_;  // [d], of the prompt rows so far, added in their order
  GenerateResult result_;
  Clock::time_point created_, started_, first_token_;
  bool paused_ = false;
  bool stepping_ = false, cancelled_ = false;  // cancelled_: to end when the step does
  bool over_ = false;
};

// What is refused at once: an empty or too long prompt, ids out of range, bad settings. Messages say the
// limit. `from`: the snapshot that the request goes on from, or null.
absl::Status CheckRequest(const GenerateRequest& request, int64_t vocab, int64_t max_context,
                          const SessionSnapshot* from = nullptr);

}  // namespace omni
