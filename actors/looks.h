// The perspectives of one step: whose token is looked at, with which states, and what is made of it.
//
//     Add --> rows aside (engine/decode/decoder.h) in the session's own pass --> Due
//       `---> (examined) a copy of the recurrent state --> the own distribution is uncertain -->
//                                                a second pass of the step, of rows aside alone --> Asked
//     --> Conclude
//
// Where the decoder takes no rows aside, each has a copy of the whole state.
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
  // `calibration` may be null, and `pool`, whose threads help; all outlive it.
  Looks(const kernels::Ops& ops, const Calibration* calibration, WorkerPool* pool = nullptr)
      : ops_(ops), calibration_(calibration), pool_(pool) {}

  bool empty() const { return looks_.empty(); }
  // The states' memory stays for the next step's, until it is released.
  void Clear();
  void Release() {
    spare_.clear();
    spare_recurrent_.clear();
  }

  // A row of a session with perspectives is to be computed, from which its next token is drawn. `part`: what
  // the caller knows it by; `position`: of the token to be drawn; `state` as it is before the row.
  // `adapter`: the session's, or null; among its positions, if it has any, the perspectives are chosen.
  // `asides`: whether the decoder takes rows aside; then `state` stays where it is until Clear.
  // ResourceExhausted: there is no memory for the copies that this takes; then it is as if not called.
  absl::Status Add(size_t part, const PerspectiveSettings& settings, uint64_t seed, int64_t position,
                   SessionState& state, TokenId token, bool asides, const ReadyAdapter* adapter = nullptr);

  // Rows of one look, and whose they are.
  struct Rows {
    size_t part = 0;
    std::array<BatchRow, kPerspectives - 1> rows;
  };
  // Of those that are due whatever the distributions are, in the order in which they were added.
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
    SessionState* own;  // its session's, for rows aside; null: each row has a copy
    const ReadyAdapter* adapter;
    std::array<PerspectiveRoute, kPerspectives - 1> routes;
    std::vector<AmongMoved> moved;  // by route, if the adapter has positions
    // Copies: of the perspectives, of one that is examined only the first; or its recurrent state.
    std::vector<SessionState> states;
    std::optional<Judgement> judgement;
    float confidence = 0;
  };

  absl::Status Copy(Look& look, SessionState& from, size_t copies);
  void Return(Look& look);
  static Rows RowsOf(Look& look);
  Look* Of(size_t part);
  const Look* Of(size_t part) const { return const_cast<Looks*>(this)->Of(part); }

  const kernels::Ops& ops_;
  const Calibration* calibration_;
  WorkerPool* pool_;
  std::vector<SessionState> spare_, spare_recurrent_;
  std::deque<Look> looks_;  // which stay where they are: rows point into them
};

}  // namespace omni
