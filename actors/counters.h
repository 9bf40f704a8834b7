// Counters of a running swarm: written by the coordinator alone, readable by any thread at any time.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "engine/model/config.h"

namespace omni {

// Added to by one thread, read by any; neither waits.
class Counter {
 public:
  void Add(int64_t n) { value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
  void Set(int64_t n) { value_.store(n, std::memory_order_relaxed); }
  int64_t Get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

// Steps of one kind: those that only decode, and those with prompt rows in them.
struct StepCounters {
  Counter steps, rows;
  Counter wall_ns;     // from the start of a step to its last token handed over
  Counter compute_ns;  // of that, inside the decoder, the experts and the sampler
  Counter hops;        // messages: a job to a region is one, its answer another
};

struct SwarmCounters {
  static constexpr int kAhead = 2;  // expert layers ahead for which routes are guessed, at most
  explicit SwarmCounters(const ModelConfig& config)
      : experts(config.num_experts()),
        expert_rows(static_cast<size_t>(config.layers * config.num_experts())),
        last_experts(static_cast<size_t>(config.layers)),
        region_requests(static_cast<size_t>(config.num_regions())),
        region_compute_ns(static_cast<size_t>(config.num_regions())) {
    for (Counter& last : last_experts) last.Set(-1);
  }

  StepCounters decode, mixed;
  Counter active, queued;                              // sessions now
  Counter predicted[kAhead], predicted_right[kAhead];  // rows, 1 and 2 expert layers ahead
  Counter sessions, restarts, retries, timeouts, moves, failed_jobs;
  Counter recoveries;                        // steps that began again since the device was lost
  Counter prompt_rows, tokens;               // rows of prompts computed; tokens drawn
  Counter safety_tokens, safety_projected;   // drawn with a polytope; of these, with a state that was outside
  Counter adapter_tokens;                    // drawn with an adapter
  Counter context_tokens, context_recalled;  // drawn with a memory of contexts; where it had a say
  Counter memory_asked, memory_recalled;     // tokens that a memory of texts was asked for; that it chose
  int64_t experts;
  std::vector<Counter> expert_rows;   // [layers, experts]
  std::vector<Counter> last_experts;  // [layers]: that was asked last; -1: none yet
  std::vector<Counter> region_requests, region_compute_ns;
};

}  // namespace omni
