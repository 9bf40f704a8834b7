// The perspectives of one step: whose token is looked at, with which states, and what is made of it.
//
//     Add --> rows that run beside the sessions' own --> TakeDue
//       `---> (examined) a copy of the state --> Ask: the own distribution is uncertain --> a second pass of
//                                                the step with only these rows --> TakeAsked
//     --> Conclude
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>

#include "actors/generate.h"
#include "engine/around/adapter.h"
#include "engine/around/calibration.h"
#include "engine/around/perspectives.h"
#include "engine/decode/decoder.h"
#include "engine/decode/token_stage.h"

namespace omni {

// One thread.
class Looks {
 public:
  // `calibration` may be null; both outlive it.
  Looks(const kernels::Ops& ops, const Calibration* calibration) : ops_(ops), calibration_(calibration) {}

  bool empty() const { return looks_.empty(); }
  // The states' memory stays for the next step's, until it is released.
  void Clear();
  void Release() { spare_.clear(); }

  // A row of a session with perspectives is to be computed, from which its next token is drawn. `part`: what
  // the caller knows it by; `position`: of the token to be drawn; `state` as it is before the row.
  // `adapter`: the session's, or null; among its positions, if it has any, the perspectives are chosen.
  // ResourceExhausted: there is no memory for the copies that this takes; then it is as if not called.
  absl::Status Add(size_t part, const PerspectiveSettings& settings, uint64_t seed, int64_t position,
                   const SessionState& state, TokenId token, const ReadyAdapter* adapter = nullptr);

  // Rows of one look, and whose they are.
  struct Rows {
    size_t part = 0;
    std::array<BatchRow, kPerspectives - 1> rows;
  };
  // Of those that are due whatever the distributions are.
  std::vector<Rows> Due();
  // Of those that are not due, whose distributions are uncertain. own: the session's row of a part. One for
  // whose copies there is no memory gets a status instead.
  std::vector<Rows> Asked(absl::FunctionRef<TokenRow&(size_t part)> own);

  // The perspectives of `part` are computed; own: its session's row, whose choice or logits they may set.
  void Conclude(size_t part, std::span<const TokenRow> perspectives, TokenRow& own);
  // Of each part that was added.
  std::optional<TokenConfidence> Confidence(size_t part, const TokenRow& own) const;

 private:
  struct Look {
    size_t part;
    PerspectiveSettings settings;
    TokenId token;
    bool due, examined, asked = false;
    const ReadyAdapter* adapter;
    std::array<PerspectiveRoute, kPerspectives - 1> routes;
    std::vector<AmongMoved> moved;     // by route, if the adapter has positions
    std::vector<SessionState> states;  // of the perspectives; of one that is examined, only the first
    std::optional<Judgement> judgement;
    float confidence = 0;
  };

  absl::Status Copy(Look& look, const SessionState& from, size_t copies);
  void Return(Look& look);
  static Rows RowsOf(Look& look);
  Look* Of(size_t part);
  const Look* Of(size_t part) const { return const_cast<Looks*>(this)->Of(part); }

  const kernels::Ops& ops_;
  const Calibration* calibration_;
  std::vector<SessionState> spare_;
  std::deque<Look> looks_;  // which stay where they are: rows point into them
};

}  // namespace omni
