// One pass of a batch of rows through the model, driven layer by layer from outside (an actor, the evaluator,
// a test), whatever does the work: this machine's cores (cpu_decoder.h), a device, a pipeline of several.
//
//     Begin --> StartLayer --> TakeJobs --> AddExpertOutput ... --> StartHidden --> StartLogits --> logits
//                 for each layer: its experts' answers come back before the next one starts
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "engine/decode/expert.h"
#include "engine/decode/route_policy.h"
#include "engine/decode/row_adapter.h"
#include "engine/decode/scratch.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"
#include "engine/model/session_state.h"
#include "engine/model/weights.h"

namespace omni {

// One token of one session. Rows of the same session must be adjacent and in order: that is prefill, and
// gives the same bytes as stepping them one by one.
struct BatchRow {
  SessionState* state = nullptr;
  TokenId token;
  bool want_logits = false;
  RoutePolicy* policy = nullptr;  // null: the router decides
  bool want_hidden = false;       // its hidden state, where it wants no logits
  // After the pass `state` holds all of itself, whatever the decoder could keep elsewhere. Of a session's
  // rows one is enough.
  bool want_state = false;
  // What it changes for the row; the rows of a session have the same. Its positions are a policy's. Null: the
  // model as it is. It outlives the pass.
  const RowAdapter* adapter = nullptr;
  // It reads the state as it is before the pass and leaves it so: what the token would make of it is dropped.
  // Such rows stand just before the session's other ones, if there are any. Only for decoders that take them.
  bool aside = false;
};

// Not thread-safe: one batch at a time, and nothing but the destructor may be called between a Start that
// returned false and its `done`.
class Decoder {
 public:
  // Called once, from another thread, when what was started is over. It hands the news on and does not call
  // back into the decoder.
  using Done = std::function<void()>;

  virtual ~Decoder() = default;

  // The batch's embeddings. Rejects token ids out of range, a state of another model, rows out of order, zero
  // rows, a session's rows with several adapters; the states are then untouched. A pass that is given up
  // after StartLayer leaves its states half-stepped: drop them.
  virtual absl::Status Begin(std::span<const BatchRow> rows) = 0;

  // Whether rows may be aside (BatchRow); else they are refused.
  virtual bool takes_asides() const { return false; }

  // Each returns true if it is over when it returns, and false if it goes on without the caller: then `done`
  // will be called.
  //
  // A layer's mixer, second norm and quantisation; then an attention layer's shared FFN, or an expert layer's
  // routing. Layers run in order, each once a pass.
  virtual bool StartLayer(LayerId layer, const Done& done) = 0;
  // Final norm of the rows that want logits or their hidden state; the states' positions advance.
  virtual bool StartHidden(const Done& done) = 0;
  // Their logits, from the hidden rows as they then are.
  virtual bool StartLogits(const Done& done) = 0;

  // What the layer that is over asks of its experts: one job per expert used, by ascending expert id; none
  // after an attention layer. An error (a device that was lost) ends the pass.
  virtual absl::StatusOr<std::vector<ExpertJob>> TakeJobs() = 0;
  // x += out for the job's rows. out: [job.rows.size(), d].
  virtual void AddExpertOutput(const ExpertJob& job, const float* out) = 0;
  // After StartHidden: y of the i-th row that wants logits, [d]; after all of those, of the rows that want
  // only this. May be changed before StartLogits: what is written there is what the logits are computed from.
  virtual std::span<float> hidden(int64_t i) = 0;
  // After StartLogits: [rows that want logits, V], in row order. Valid until the next Begin.
  virtual absl::StatusOr<std::span<const float>> logits() = 0;

  // Routes of the last expert layer run, by row.
  virtual std::span<const ExpertId> routes() const = 0;
  // Where each row would go if its residual stream, as it stands, were routed by `layer`, an expert layer
  // still to come: a guess, for models whose routers read the present token. Valid until the next call.
  virtual std::span<const ExpertId> PredictRoutes(LayerId layer) = 0;
  // Between Begin and the layer's start, of an expert layer of a model whose routes come from the slow state:
  // the expert of each session's first row in the batch, and of each row aside, in the batch's order. Empty
  // for other models. Valid until the next call.
  virtual std::span<const ExpertId> KnownRoutes(LayerId layer) = 0;
  // Once the layer has run, of the same kind: what is known of the expert of each session's next row. With
  // routes from address that is its region, told by the region's first expert.
  virtual std::span<const ExpertId> NextRoutes(LayerId layer) = 0;
  virtual const kernels::Ops& ops() const = 0;  // with which experts must be computed to agree

  // What has gone wrong in the pass so far without anybody having been told, as by TakeJobs: after
  // StartHidden is over.
  virtual absl::Status status() const { return absl::OkStatus(); }
  // The pass has ended with this error, of Begin, TakeJobs, status or logits. True: another decoder stands in
  // from now on, and the rows may begin again, but for states that were elsewhere, which are lost.
  virtual bool Recover(const absl::Status& /*error*/) { return false; }

  // StartLayer and TakeJobs, StartHidden and StartLogits, for callers that can wait.
  absl::StatusOr<std::vector<ExpertJob>> RunLayer(LayerId layer);
  absl::StatusOr<std::span<const float>> Finish();

 private:
  friend absl::StatusOr<std::span<const float>> RunBatch(Decoder&, const ModelConfig&, ExpertSource&,
                                                         WorkerPool&, std::span<const BatchRow>);
  Scratch<float> expert_out_;  // RunBatch's, kept for the next batch
};

// Begin, all layers with experts from `source` (computed by the decoder's ops), Finish. The result stays
// valid until the next call. After an error from the source the rows' states are half-stepped: drop them. The
// source may be asked from the pool's threads.
absl::StatusOr<std::span<const float>> RunBatch(Decoder& decoder, const ModelConfig& config,
                                                ExpertSource& source, WorkerPool& pool,
                                                std::span<const BatchRow> rows);

}  // namespace omni
