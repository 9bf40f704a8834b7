// Decoding from disk, measured against the bandwidths of the machine it runs on.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <absl/functional/function_ref.h>
#include <absl/status/statusor.h>

#include "cluster/node.h"
#include "store/cache/routing_trace.h"

namespace omni::cli {

// Where a case's routes come from, and what is in memory when a token begins.
enum class StreamCase {
  kHot,         // every token goes where the first one went: all is in memory
  kMixed,       // a walk on the torus (store/cache/routing_trace.h), with what the cache kept
  kMixedKnown,  // the same walk, each layer's expert announced when it is over for the token before
  kCold,        // the walk of kMixed, and nothing is in memory
  kOwn,         // the model's own routers, with what the cache kept; what they know or guess before is read
};
const char* StreamCaseName(StreamCase which);  // "hot", "mixed_known", ...
// In the order in which they are listed for users.
std::vector<StreamCase> AllStreamCases();

struct StreamCaseOptions {
  StreamCase which = StreamCase::kMixed;
  int64_t warmup = 4, tokens = 16;  // not counted, then counted
  uint64_t seed = 1;
  int threads = 0;             // 0: all cores
  bool prefetch = true;        // own routes only
  bool measure_limits = true;  // memory and disk, before and after every few tokens; false: no roofline
  std::vector<TokenId> prompt = {TokenId(0)};
  DeviceChoice device;
  bool repeats = true;  // false: no token comes twice among 64, as untrained weights would have it
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
  // sum of the times. What is announced before, or routers do, which can be guessed: the larger of them.
  double roofline_seconds = 0;
  std::optional<DeviceReport> device;  // that computed, as it was at the end
  // Hand-overs to askers of experts some of whose tiles were still being read, and tiles in them: what could
  // be computed meanwhile. Per token.
  double hand_overs = 0, handed_tiles = 0;
  // The tokens drawn, the probability of each, and what the routers chose in every expert layer, whether it
  // was followed or not: two runs agree in all of it only if what they computed is the same.
  std::vector<TokenId> output;
  std::vector<float> probabilities;
  std::vector<ExpertId> chosen;

  double tok_per_s() const { return seconds > 0 ? 1 / seconds : 0; }
  double roofline_share() const { return seconds > 0 ? roofline_seconds / seconds : 0; }
  // What was read over the whole time of a token, of what the device was measured to give; 0: not measured.
  double memory_reached() const { return Reached(memory_bytes, memory_bytes_per_s); }
  double disk_reached() const { return Reached(disk_bytes, disk_bytes_per_s); }

 private:
  double Reached(double bytes, double bytes_per_s) const {
    return seconds > 0 && bytes_per_s > 0 ? bytes / seconds / bytes_per_s : 0;
  }
};

// Restarts the node's swarm as the case needs it. What is in memory when it begins and is not wanted there,
// the caller forgets.
absl::StatusOr<StreamCaseResult> RunStreamCase(Node& node, const StreamCaseOptions& options,
                                               absl::FunctionRef<bool(int64_t token)> on_token);

// Stacked bars, one per case: the time of a token that memory needs, that the disk needs, and the rest.
std::string StreamSvg(const std::vector<StreamCaseResult>& results);

}  // namespace omni::cli
