// Learning an adapter from a text, forward only: no graph is stored.
//
//     text --> learned part | held-out part          the model's own text (sampled once)
//                |              |                        |
//     head:      exact gradient |                        exact gradient of the divergence, which is held down
//     layers:    K directional derivatives a window      likewise
//     positions: natural evolution strategies
//                |              |                        |
//                `--> a pass -->`--> better, and the own text not less likely than allowed? keep : roll back
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/around/adapter.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"
#include "engine/text/tokenizer.h"

namespace omni {

struct AdaptSettings {
  std::chrono::milliseconds budget{60'000};  // of time; all of it need not be used
  // The budget is of the calling thread's processor time, not the clock's: what it waits for counts nothing.
  bool processor_time = false;
  // Of the budget what the layers may take where the head is learned too: they are worth little beside it.
  double layers_share = 0.15;
  int64_t passes = 4;     // over the text, at most, for each kind of parameters
  double held_out = 0.1;  // share of the text, at its end
  // Nats a token, as a share of the loss, by which the model's own text may become less likely.
  double most_drift = 0.004;
  int64_t own_tokens = 2048;  // of the model's own text, rounded up to whole texts of 64
  uint64_t seed = 1;
  int64_t directions = 8;  // differentiated at once
  // Called by the calling thread now and then. True: stop, and keep what was good until then.
  std::function<bool(double share)> progress = nullptr;
  // Called by the calling thread before each batch of at most a few hundred tokens; it may wait, to give way
  // to others. An error ends the learning with it.
  std::function<absl::Status()> before_batch = nullptr;
};

// What one kind of parameters did.
struct AdaptPhase {
  std::string name;
  int64_t passes = 0, kept = 0;  // kept: of the passes
  double nats = 0, drift = 0;    // held out, a token, after what was kept; share of the loss
  double seconds = 0;
};

// A block's share: what the held-out loss is without it.
struct AdaptShare {
  AdapterBlock block;
  int64_t values = 0;
  double nats_without = 0;
};

struct AdaptReport {
  int64_t tokens = 0, held_out_tokens = 0, own_tokens = 0;
  double nats_before = 0, nats = 0;  // held out, a token
  double drift = 0;                  // share of the loss
  bool kept = false;                 // false: the adapter's bytes are what they were
  bool out_of_time = false;
  std::vector<AdaptPhase> phases;
  std::vector<AdaptShare> shares;  // of blocks that are not all zero
  int64_t adapter_bytes = 0;
  int64_t extra_bytes = 0;  // gradient, moments and the copy to roll back to
  int64_t batch_bytes = 0;  // rows, states and tangents of a pass
  double seconds = 0;       // of what the budget counts
};

// Changes `adapter`, from what it is. Rejects texts of fewer than 256 tokens, and a tokenizer of more tokens
// than the model has; passes on the source's errors; after an error the adapter is what was kept last.
// Deterministic unless time runs out.
absl::StatusOr<AdaptReport> LearnAdapter(const ModelWeights& weights, ExpertSource& source,
                                         const Tokenizer& tokenizer, WorkerPool& pool, std::string_view text,
                                         const AdaptSettings& settings, Adapter& adapter);

// What learning an adapter of `parts` from a text of `text_bytes` takes of memory at most, the adapter and
// the text's tokens included; within a factor of two of what it does take.
int64_t MostLearningBytes(const ModelConfig& config, const AdapterParts& parts, const AdaptSettings& settings,
                          int64_t text_bytes, int threads);

}  // namespace omni
