// Perspectives: one token routed four ways, as four rows of one batch through the shared weights.
//
// Problem: a distribution says how likely tokens are, not whether the model would say the same if it had
// asked other experts. Solution: at some tokens the row is computed three times more, each from the session's
// state before it and with experts other than the router's. How far the four distributions lie
// apart, and whether their tokens agree, is what is known beyond the softmax; and their average is an
// ensemble.
//
//     state before the token --------> row 1, 2, 3 with their own experts --> logits --> Judge
//                            `-------> the session's own row ---------------> logits --'
//
// When they look is a function of the position and of the session's own distribution alone: a session that is
// computed anew elsewhere looks at the same places and decides the same.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "engine/base/ids.h"
#include "engine/decode/route_policy.h"
#include "engine/decode/worker_pool.h"
#include "engine/text/sampler.h"
#include "kernels/op.h"

namespace omni {

inline constexpr int kPerspectives = 4;  // the router's own, and three others

enum class PerspectiveKind {
  kNear,  // the router's point moved by one cell of the lattice along each axis
  kFar,   // the second nearest expert; the expert nearest to the antipode of the router's; a random one
};

enum class PerspectiveUse {
  kConfidence,  // tokens stay what they are
  kMajority,    // where they disagree, a token that two or more name
  kAverage,     // the token is drawn from the average of the four distributions
};

struct PerspectiveSettings {
  PerspectiveKind kind = PerspectiveKind::kNear;
  PerspectiveUse use = PerspectiveUse::kMajority;
  // Tokens whose position is a multiple of `every` are looked at; 0: none for that reason.
  int64_t every = 8;
  // Tokens whose position is a multiple of `examine` are looked at if the likeliest token has less than
  // `below` or the entropy is above `above` nats; 0: none for that reason. Costs a copy of the session's
  // recurrent state at each of those positions.
  int64_t examine = 12;
  float below = 0.6f, above = 3.0f;
  // Disagreement, nats, from which on they are said to disagree; nothing: the calibration's (calibration.h).
  std::optional<float> tau;

  bool operator==(const PerspectiveSettings&) const = default;
};

// "near" or "far", then any of ",use=confidence|majority|average", ",every=N", ",examine=N", ",below=P",
// ",above=NATS", ",tau=NATS". The error names what is wrong and what may stand there.
absl::StatusOr<PerspectiveSettings> ParsePerspectives(std::string_view text);
// What ParsePerspectives makes the same settings of.
std::string PerspectiveText(const PerspectiveSettings& settings);
const char* PerspectiveKindName(PerspectiveKind kind);

// position: of the token to be drawn, which is the number of tokens before it.
bool DueAt(const PerspectiveSettings& settings, int64_t position);
bool ExaminedAt(const PerspectiveSettings& settings, int64_t position);
// Of the session's own distribution.
bool Uncertain(const PerspectiveSettings& settings, const kernels::Ops& ops, std::span<const float> logits);

// The experts of one perspective. Where a token's place inside the regions is its own (route_from address),
// only the region is another one, and the cells of kNear are regions. Stateless: one serves any number of
// rows.
class PerspectiveRoute : public RoutePolicy {
 public:
  // which: 1 .. kPerspectives - 1; seed: of the random one, whose expert depends on it, the position and the
  // layer.
  PerspectiveRoute(PerspectiveKind kind, int which, uint64_t seed)
      : kind_(kind), which_(which), seed_(seed) {}
  ExpertId Choose(const RouteChoice& choice) override;

 private:
  PerspectiveKind kind_;
  int which_;
  uint64_t seed_;
};

// The three of one session.
std::array<PerspectiveRoute, kPerspectives - 1> PerspectiveRoutes(PerspectiveKind kind, uint64_t seed);

struct PerspectiveVerdict {
  float disagreement = 0;  // nats
  bool disagree = false;   // it is tau or more
  int votes = 0;           // of the four, for `token`
  bool uncertain = false;  // they disagree, and no two name the same token
  bool changed = false;    // `token` is not what the session alone would have drawn
  TokenId token;
  float probability = 0;  // of `token`, in the session's own distribution
};

struct Judgement {
  PerspectiveVerdict verdict;
  // With kAverage, logs of the average of the four distributions: the token is drawn from it. Else empty.
  std::vector<float> average;
};

// logits: of the four, the session's own first, [V] each. Each names the token that the sampler draws from
// its logits with the same random number. tau: nats. Of equally many votes the first one's token wins. pool:
// who helps; null: nobody.
Judgement Judge(const PerspectiveSettings& settings, const kernels::Ops& ops,
                std::span<const std::span<const float>> logits, std::span<const TokenId> history,
                const SamplerSettings& sampler, float tau, WorkerPool* pool = nullptr);

}  // namespace omni
