// The texts that an adapter is learned from and judged by, as the engine reads them: the text itself, whose
// end is held out, and texts that the model wrote. Internal to adapt_learn.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/around/adapter.h"
#include "engine/decode/cpu_decoder.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"

namespace omni {

inline constexpr size_t kAdaptBatch = 32;  // tokens that are learned from together
inline constexpr size_t kOwnLength = 64;   // of a text that the model wrote: a multiple of the batch

// Null if the adapter moves no expert.
std::unique_ptr<AdaptedPositions> PolicyOf(const ModelConfig& config, const Adapter& adapter);

class AdaptTexts {
 public:
  // `tokens` begin with the one that is only context; the first `learned` predictions are learned from.
  AdaptTexts(const ModelWeights& weights, ExpertSource& source, WorkerPool& pool, std::vector<TokenId> tokens,
             size_t learned);

  // Texts that the model writes at temperature 1, from zero state: `texts` of them to learn with, half as
  // many to measure with. Stops early, with what there is by then, when `go_on` is false.
  absl::Status WriteOwn(size_t texts, uint64_t seed, const std::function<bool()>& go_on);
  int64_t own_tokens() const;

  // Nats a token of the part that is held out, after the rest was read.
  absl::StatusOr<double> HeldOut(const Adapter& adapter);
  // KL(model || adapted), nats a token, of the own texts to measure with.
  absl::StatusOr<double> Drift(const Adapter& adapter);
  // Nats a token of `window` after its first, read on from `state`.
  absl::StatusOr<double> Loss(SessionState& state, std::span<const TokenId> window, const RowAdapter& adapter,
                              RoutePolicy* policy);
  // y becomes the hidden states of the tokens, read on from `state`: [tokens, d].
  absl::Status Hidden(SessionState& state, std::span<const TokenId> tokens, const RowAdapter* adapter,
                      RoutePolicy* policy, std::vector<float>& y);

  // The next batch of the own texts to learn with, one after the other; `begins`: of a text.
  std::span<const TokenId> NextOwn(bool& begins);
  void BeginOwnText() { own_next_ = 0; }
  bool own_text_over() const { return own_next_ == 0; }

  // Called before each batch; an error of it is that of whatever the batch was for.
  void set_before_batch(std::function<absl::Status()> hook) { before_batch_ = std::move(hook); }
  absl::Status BeforeBatch() { return before_batch_ ? before_batch_() : absl::OkStatus(); }

  std::span<const TokenId> tokens() const { return tokens_; }
  size_t learned() const { return learned_; }
  SessionState& state() { return state_; }
  SessionState& own_state() { return own_state_; }
  SessionState& plain_state() { return plain_state_; }

 private:
  absl::StatusOr<std::span<const float>> Read(const RowAdapter* adapter);

  const ModelConfig& config_;
  ExpertSource& source_;
  WorkerPool& pool_;
  const std::vector<TokenId> tokens_;
  const size_t learned_;
  std::function<absl::Status()> before_batch_;
  std::vector<std::vector<TokenId>> own_, measured_;
  size_t own_text_ = 0, own_next_ = 0;
  CpuDecoder decoder_;
  SessionState state_, own_state_, plain_state_;
  std::vector<BatchRow> rows_;
  std::vector<float> plain_logits_;
};

}  // namespace omni
