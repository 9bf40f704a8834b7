#include "actors/looks.h"

#include <new>
#include <utility>

#include <absl/strings/str_cat.h>

namespace omni {
namespace {

constexpr size_t kOthers = kPerspectives - 1;

}  // namespace

absl::Status Looks::Copy(Look& look, SessionState& from, size_t copies) {
  const bool recurrent = look.own != nullptr;
  std::vector<SessionState>& spare = recurrent ? spare_recurrent_ : spare_;
  try {
    while (look.states.size() < copies) {
      if (spare.empty()) {
        look.states.push_back(recurrent ? from.Recurrent() : from.Clone());
        continue;
      }
      look.states.push_back(std::move(spare.back()));
      spare.pop_back();
      recurrent ? look.states.back().CopyRecurrent(from) : look.states.back().CopyFrom(from);
    }
  } catch (const std::bad_alloc&) {
    look.states.clear();
    return absl::ResourceExhaustedError(absl::StrCat(
        "no memory for ", copies, " copies of the session's state, of up to ", from.bytes() >> 20,
        " MiB, which its perspectives take; ask without them or end other sessions"));
  }
  return absl::OkStatus();
}

void Looks::Return(Look& look) {
  for (SessionState& state : look.states) {
    state.set_elsewhere(nullptr);  // nobody will read it
    (look.own != nullptr ? spare_recurrent_ : spare_).push_back(std::move(state));
  }
  look.states.clear();
}

void Looks::Clear() {
  for (Look& look : looks_) Return(look);
  looks_.clear();
}

absl::Status Looks::Add(size_t part, const PerspectiveSettings& settings, uint64_t seed, int64_t position,
                        SessionState& state, TokenId token, bool asides, const ReadyAdapter* adapter) {
  const bool due = DueAt(settings, position), examined = ExaminedAt(settings, position);
  Look& look = looks_.emplace_back(Look{part,
                                        settings,
                                        token,
                                        due,
                                        examined,
                                        false,
                                        asides ? &state : nullptr,
                                        adapter,
                                        PerspectiveRoutes(settings.kind, seed),
                                        {},
                                        {},
                                        {},
                                        0});
  if (adapter != nullptr && adapter->policy() != nullptr) {
    for (PerspectiveRoute& route : look.routes) look.moved.emplace_back(adapter->policy(), route);
  }
  // Rows aside see the session's own state as long as its pass is theirs.
  const size_t copies = due ? (asides ? 0 : kOthers) : examined ? 1 : 0;
  look.states.reserve(kOthers);
  absl::Status status = Copy(look, state, copies);
  if (!status.ok()) looks_.pop_back();
  return status;
}

Looks::Rows Looks::RowsOf(Look& look) {
  Rows rows{look.part, {}};
  for (size_t k = 0; k < kOthers; ++k) {
    RoutePolicy* const policy =
        look.moved.empty() ? static_cast<RoutePolicy*>(&look.routes[k]) : &look.moved[k];
    const bool aside = look.own != nullptr;
    SessionState* const state = !aside ? &look.states[k] : look.due ? look.own : &look.states[0];
    rows.rows[k] = {
        .state = state, .token = look.token, .want_logits = true, .policy = policy, .aside = aside};
    if (look.adapter != nullptr) rows.rows[k].adapter = &look.adapter->rows();
  }
  return rows;
}

std::vector<Looks::Rows> Looks::Due() {
  std::vector<Rows> all;
  for (Look& look : looks_) {
    if (look.due) all.push_back(RowsOf(look));
  }
  return all;
}

std::vector<Looks::Rows> Looks::Asked(absl::FunctionRef<TokenRow&(size_t part)> own) {
  std::vector<Rows> all;
  for (Look& look : looks_) {
    if (look.due || !look.examined) continue;
    TokenRow& row = own(look.part);
    if (!row.status.ok() || !Uncertain(look.settings, ops_, row.logits)) continue;
    if (look.own == nullptr) row.status = Copy(look, look.states.front(), kOthers);
    if (row.status.ok()) all.push_back(RowsOf(look));
  }
  return all;
}

Looks::Look* Looks::Of(size_t part) {
  for (Look& look : looks_) {
    if (look.part == part) return &look;
  }
  return nullptr;
}

void Looks::Conclude(size_t part, std::span<const TokenRow> perspectives, TokenRow& own) {
  Look& look = *Of(part);
  Return(look);
  std::vector<std::span<const float>> logits = {own.logits};
  for (const TokenRow& row : perspectives) {
    if (!row.status.ok()) own.status = row.status;
    logits.push_back(row.logits);
  }
  if (!own.status.ok()) return;
  const float tau = TauOf(look.settings, calibration_);
  look.judgement = Judge(look.settings, ops_, logits, own.history, *own.sampler, tau, pool_);
  const PerspectiveVerdict& verdict = look.judgement->verdict;
  look.confidence =
      PerspectiveConfidence(calibration_, look.settings.kind, ops_, logits, verdict.disagreement, tau, pool_);
  own.verdict = &verdict;
  if (!look.judgement->average.empty()) {
    own.logits = look.judgement->average;
  } else if (verdict.changed) {
    own.choice = Sampled{verdict.token, verdict.probability};
  }
}

std::optional<TokenConfidence> Looks::Confidence(size_t part, const TokenRow& own) const {
  const Look* look = Of(part);
  if (look == nullptr) return std::nullopt;
  if (look->judgement.has_value()) return TokenConfidence{look->confidence, look->judgement->verdict};
  return TokenConfidence{OwnConfidence(calibration_, ops_, own.logits), std::nullopt};
}

}  // namespace omni
