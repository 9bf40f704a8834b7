// Decoding from disk, measured against the bandwidths of the machine it runs on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/functional/function_ref.h>
#include <absl/status/statusor.h>

#include "cluster/node.h"
#include "store/cache/routing_trace.h"

namespace omni::cli {

// Where a case's routes come from, and what is in memory when a token begins.
enum class StreamCase {
  kHot,    // every token goes where the first one went: all is in memory
  kMixed,  // a walk on the torus (store/cache/routing_trace.h), with what the cache kept
  kCold,   // the same walk, and nothing is in memory
  kOwn,    // the model's own routers, with what the cache kept, and guesses read ahead
};
const char* StreamCaseName(StreamCase which);  // "hot", ...

struct StreamCaseOptions {
  StreamCase which = StreamCase::kMixed;
  int64_t warmup = 4, tokens = 16;  // not counted, then counted
  uint64_t seed = 1;
  int threads = 0;             // 0: all cores
  bool prefetch = true;        // own routes only
  bool measure_limits = true;  // memory and disk, before and after every few tokens; false: no roofline
  std::vector<TokenId> prompt = {TokenId(0)};
};

// Bytes and times are per token, means over the counted ones.
struct StreamCaseResult {
  StreamCase which = StreamCase::kMixed;
  int64_t tokens = 0;
  double seconds = 0, p50_seconds = 0, p99_seconds = 0;
  double memory_bytes = 0;                           // that must go through memory: weights, states
  double disk_bytes = 0;                             // that were read from disk
  double hit_share = 0;                              // of the tiles asked for, in memory
  double stall_share = 0;                            // of the time, with the decoder waiting for tiles
  double guessed_share = 0, guessed_used_share = 0;  // of the tiles read: for a guess; of all guesses, used
  double predicted_right[2] = {
      -1, -1};  // share of rows whose expert was guessed 1, 2 expert layers ahead; -1: none
  double memory_bytes_per_s = 0,
         disk_bytes_per_s = 0;  // measured in the same run; 0: not measured, or not read
  // A walk tells a layer's expert when that layer starts, so that reading and computing hardly overlap: the
  // sum of the times. What the routers do can be guessed: the larger of them.
  double roofline_seconds = 0;
  // The tokens drawn, the probability of each, and what the routers chose in every expert layer, whether it
  // was followed or not: two runs agree in all of it only if what they computed is the same.
  std::vector<TokenId> output;
  std::vector<float> probabilities;
  std::vector<ExpertId> chosen;

  double tok_per_s() const { return seconds > 0 ? 1 / seconds : 0; }
  double roofline_share() const { return seconds > 0 ? roofline_seconds / seconds : 0; }
};

// Restarts the node's swarm as the case needs it.
absl::StatusOr<StreamCaseResult> RunStreamCase(Node& node, const StreamCaseOptions& options,
                                               absl::FunctionRef<bool(int64_t token)> on_token);

// Stacked bars, one per case: the time of a token that memory needs, that the disk needs, and the rest.
std::string StreamSvg(const std::vector<StreamCaseResult>& results);

}  // namespace omni::cli
