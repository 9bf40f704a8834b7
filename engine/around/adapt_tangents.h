// Forward derivatives of the last hidden state by what an adapter changes inside the layers: for each of K
// directions a tangent is carried beside the primal, through the same integer products as extra columns
// (adapt_columns.h), and through the recurrent state.
//
// Two things are not differentiated: a row's expert is held fixed, and rounding (of activations to int8, of
// keys and values to fp16) counts as the identity, straight through. The derivative is that of the token step
// with each rounding's error held fixed; the tests compare with central differences of exactly that.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <absl/status/status.h>

#include "engine/base/ids.h"
#include "engine/decode/route_policy.h"
#include "engine/decode/row_adapter.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"
#include "engine/model/session_state.h"
#include "engine/model/weights.h"
#include "kernels/op.h"

namespace omni {

// The derivatives of a session's state in each direction.
class TangentState {
 public:
  TangentState(const ModelConfig& config, int64_t directions);
  void Reset();  // to zero
  int64_t bytes() const;
  int64_t directions() const { return directions_; }

  float* pdr(LayerId layer, int64_t direction);   // [d, r]
  float* keys(LayerId layer, int64_t direction);  // [H_kv, W, h] as SessionState's, in float32
  float* values(LayerId layer, int64_t direction);

 private:
  const ModelConfig config_;
  const int64_t directions_;
  std::vector<std::vector<float>> pdr_, keys_, values_;  // by layer
};

// One thread at a time.
class TangentPass {
 public:
  TangentPass(const ModelWeights& weights, ExpertSource& source, WorkerPool& pool,
              const kernels::Ops& ops = kernels::ActiveOps());
  ~TangentPass();

  // The tokens after `state`, which they move on, as they do `tangents`. `at`: the adapter, whose head does
  // not matter here. Direction k changes layer l's parameters by directions[k][l]: gains, and of left, core
  // and right those that are not null. `policy` may be null. An error is the source's; both states are then
  // to be dropped.
  absl::Status Run(SessionState& state, TangentState& tangents, std::span<const TokenId> tokens,
                   const RowAdapter& at, std::span<const std::vector<LayerChange>> directions,
                   RoutePolicy* policy = nullptr);

  // Of the last Run: the hidden state after a token, the same bytes as the decoder's, and its derivative.
  std::span<const float> hidden(int64_t token) const;
  std::span<const float> tangent(int64_t direction, int64_t token) const;
  int64_t bytes() const;  // of its buffers

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
