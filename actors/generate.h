// What a client asks of the swarm and what it gets back. Plain values: no actor type is seen here.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/around/adapter_source.h"
#include "engine/around/memory_source.h"
#include "engine/around/perspectives.h"
#include "engine/around/polytope_source.h"
#include "engine/base/ids.h"
#include "engine/decode/token_notes.h"
#include "engine/text/sampler.h"

namespace omni {

class RoutePolicy;
struct SessionSnapshot;

inline constexpr int32_t kMostAlternatives = 20;

struct GenerateRequest {
  std::vector<TokenId> prompt;  // at least one token
  // The answer's first tokens, where they are known already: they are computed like the prompt's, counted as
  // generated, and not told again. What follows is what would have followed.
  std::vector<TokenId> generated;
  int64_t max_tokens = 128;  // tokens to generate, >= 1
  SamplerSettings sampler;
  std::vector<std::string> stops;   // generation ends before the first of these strings
  bool stop_at_end_of_text = true;  // false: end-of-text is a token like any other
  bool keep = false;  // the result brings a snapshot, from which the session can be gone on with
  // Who asks: places and turns are shared out over callers. Empty: nobody in particular, who is a caller like
  // the others.
  std::string caller;
  int32_t alternatives = 0;  // of the likeliest tokens told with each token: 0 .. kMostAlternatives
  bool routes = false;       // each token tells its experts
  // Tokens tell how sure they are, and some are looked at from four routings. Nothing: none of it costs
  // anything.
  std::optional<PerspectiveSettings> perspectives;
  // The polytope that hidden states are projected onto before their logits are computed. Of an answer, that
  // which its swarm had when it began: another of the name changes nothing for it.
  SafetyChoice safety;
  // The session remembers its own text, and what followed in like places has a say in the next token.
  bool context_memory = false;
  // The memory of texts that is asked where perspectives disagree and no two name the same token; a scope of
  // the caller's. Goes with perspectives of kMajority alone. Of an answer, as it was when it began.
  MemoryChoice memory;
  // What the model is adapted by, and the routers' positions with it. Of an answer, as with the polytope.
  AdapterChoice adapter;
  // No token is drawn: the result is an embedding of the prompt. What would concern tokens must be off, and a
  // snapshot is neither gone on from nor kept; max_tokens, sampler and stops do not matter.
  bool embed = false;
  // Decides in the place of the routers and of an adapter's positions, on the swarm's thread; outlives the
  // session. Null: they decide.
  RoutePolicy* route_policy = nullptr;
  std::stop_token cancel;  // may be signalled from any thread
};

enum class StopReason {
  kLength,     // max_tokens generated, or the prompt embedded
  kEndOfText,  // the model ended the text
  kStop,       // a stop string appeared
  kContext,    // the session reached the swarm's context limit
  kCancelled,  // the client asked, or the swarm shut down after tokens had been generated
};
const char* StopReasonName(StopReason reason);  // "length", "end_of_text", "stop", "context", "cancelled"

struct Timings {
  std::chrono::nanoseconds queued{0};   // from the request to its first step
  std::chrono::nanoseconds prefill{0};  // from the first step to the first token
  std::chrono::nanoseconds decode{0};   // from the first token to the last
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  double PrefillRate() const;  // tokens a second; 0 if nothing was measured
  double DecodeRate() const;   // of the tokens after the first
};

// How sure a token is.
struct TokenConfidence {
  // That the likeliest token of the place is the right one; calibrated where the model has a calibration.
  float confidence = 0;
  std::optional<PerspectiveVerdict> looked;  // of a token that was looked at
};

// The confidences of an answer together.
struct ConfidenceSummary {
  int64_t tokens = 0, looked = 0, disagreeing = 0, uncertain = 0, changed = 0;
  double sum = 0;  // of the tokens' confidences, in order
  double mean() const { return tokens > 0 ? sum / static_cast<double>(tokens) : 0; }
  void Add(const TokenConfidence& confidence);
};

// What the stages did for an answer's tokens together.
struct NotesSummary {
  int64_t projectable = 0, projected = 0;  // tokens with a polytope; of them those whose state was outside
  double distance = 0;                     // sum over them, in order
  float largest_distance = 0;
  // Tokens with a memory of contexts; of them those where it had a say; the sum of its weights, in order.
  int64_t remembering = 0, recalled = 0;
  double weight = 0;
  int64_t asked = 0, remembered = 0;  // tokens for which a memory was asked; of them those that are its own
  double mean_weight() const { return remembering > 0 ? weight / static_cast<double>(remembering) : 0; }
  bool empty() const { return projectable == 0 && remembering == 0 && asked == 0; }
  double mean_distance() const { return projectable > 0 ? distance / static_cast<double>(projectable) : 0; }
  void Add(const TokenNotes& notes);
};

// One thing that happened to a session: progress of its prompt, a new token, or (no token) text that had been
// held back until the end.
struct GenerateEvent {
  bool is_token = false;
  int64_t position = 0;   // tokens of the session so far, this one included
  TokenId token;          // tokens only
  float probability = 0;  // tokens only: under the unmodified softmax
  // Tokens only, if asked for. The likeliest, likeliest first and of equals the lower id, under the same
  // softmax; the token itself need not be among them.
  std::vector<Sampled> alternatives;
  // Tokens only, if asked for: the expert of each expert layer, in order, of the row from which the token was
  // drawn, which is the token before it.
  std::vector<ExpertId> routes;
  std::optional<TokenConfidence> confidence;  // tokens of sessions with perspectives
  TokenNotes notes;                           // tokens only
  std::string text;  // what may be shown now; whole characters where the text is valid UTF-8, may be empty
};

// Called on the thread that called Generate. Returning false cancels the session.
using GenerateCallback = std::function<bool(const GenerateEvent&)>;

struct GenerateResult {
  std::string text;  // all of the generated text, stop string excluded
  std::vector<TokenId> tokens;
  StopReason reason = StopReason::kLength;
  AdapterChoice adapter;  // that it was answered with, by name and hash; no name: none
  Timings timings;
  std::shared_ptr<const SessionSnapshot> snapshot;  // if it was to be kept, and it began
  // [d], if it was asked for: the mean of the prompt's hidden rows after the final norm. The same bytes
  // whatever else is being answered, and however the prompt is cut into blocks.
  std::vector<float> embedding;
};

}  // namespace omni
