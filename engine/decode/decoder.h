// One pass of a batch of rows through the model, driven layer by layer from outside (an actor, the evaluator,
// a test).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

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
};

// The rows of a batch that one expert of one layer must compute; pointers are into the decoder's buffers and
// stay valid and unchanged until the layer's last AddExpertOutput.
struct ExpertJob {
  LayerId layer;
  ExpertId expert;
  std::vector<int32_t> rows;  // batch rows, ascending
  const int8_t* q = nullptr;  // row i of the batch at q + i * q_stride: int8, d_pad long
  int64_t q_stride = 0;
  const float* scale = nullptr;  // scale[i] of batch row i
};

// The expert FFN of one job: out[j * d .. ] receives row job.rows[j]'s output. Stateless: the same bytes on
// any thread, node or batch. Rows may be computed from a copied q (remote) by setting rows = 0..n-1.
// Thread-safe. Tiles are checked as `expert` says; an error is that of the first one found damaged. Rejects a
// number of tiles that is not the config's and an empty job.
absl::Status RunExpert(const ModelConfig& config, const ExpertTiles& expert, const ExpertJob& job,
                       WorkerPool& pool, float* out, const kernels::Ops& ops = kernels::ActiveOps());

// RunExpert in two parts, for an expert some of whose tiles are still on their way: what can be computed from
// the others is computed meanwhile. The same bytes. One thread at a time.
class ExpertRun {
 public:
  // The job's rows stay unchanged, and everything stays in place, until Finish has returned.
  ExpertRun(const ModelConfig& config, const ExpertJob& job, WorkerPool& pool,
            const kernels::Ops& ops = kernels::ActiveOps());
  ~ExpertRun();
  // Tiles by number, TilesPerExpert(config) of them, null where there is none yet. Those of earlier calls are
  // passed over.
  absl::Status Add(const ExpertTiles& partial);
  // The rest. Errors and `out` as RunExpert's.
  absl::Status Finish(const ExpertTiles& expert, float* out);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class Decoder {
 public:
  // weights and pool outlive the decoder; weights are valid (CheckWeights). Not thread-safe: one batch at a
  // time.
  Decoder(const ModelWeights& weights, WorkerPool& pool, const kernels::Ops& ops = kernels::ActiveOps());
  ~Decoder();

  // The batch's embeddings. Rejects token ids out of range, a state of another model, rows out of order, zero
  // rows; the states are then untouched. A pass that is given up after RunLayer leaves its states
  // half-stepped: drop them.
  absl::Status Begin(std::span<const BatchRow> rows);
  // Mixer, second norm, quantisation; then for an attention layer its shared FFN (nothing to ask: returns
  // empty), for an expert layer the routing: one job per expert used, by ascending expert id. Layers run in
  // order, each once a pass.
  std::vector<ExpertJob> RunLayer(LayerId layer);
  // x += out for the job's rows. out: [job.rows.size(), d].
  void AddExpertOutput(const ExpertJob& job, const float* out);
  // Final norm and logits of rows that want them, in row order: [count, V]. Advances the states' positions.
  // Valid until the next Finish.
  std::span<const float> Finish();

  // Routes of the last expert layer run, by row.
  std::span<const ExpertId> routes() const;
  // Where each row would go if its residual stream, as it stands, were routed by `layer`, an expert layer
  // still to come: a guess. Valid until the next call.
  std::span<const ExpertId> PredictRoutes(LayerId layer);
  // Called with the routes of every expert layer, by row, before they are followed; it may change them. For
  // measurements. Empty: not called.
  using Reroute = std::function<void(LayerId layer, std::span<ExpertId> routes)>;
  void set_reroute(Reroute reroute);
  const kernels::Ops& ops() const;

 private:
  friend absl::StatusOr<std::span<const float>> RunBatch(Decoder&, const ModelConfig&, ExpertSource&,
                                                         WorkerPool&, std::span<const BatchRow>);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Begin, all layers with experts from `source` (computed by the decoder's ops), Finish. The result stays
// valid until the next call. After an error from the source the rows' states are half-stepped: drop them.
// The source may be asked from the pool's threads.
absl::StatusOr<std::span<const float>> RunBatch(Decoder& decoder, const ModelConfig& config,
                                                ExpertSource& source, WorkerPool& pool,
                                                std::span<const BatchRow> rows);

}  // namespace omni
