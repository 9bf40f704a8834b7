// The perspectives of CoordinatorState's step.
#include <algorithm>
#include <utility>

#include "actors/coordinator_state.h"

namespace omni {
namespace {

constexpr size_t kOthers = kPerspectives - 1;

}  // namespace

// After all parts are planned.
void CoordinatorState::AddLooks() {
  looks_.Clear();
  look_parts_.clear();
  look_rows_.clear();
  kept_rows_.clear();
  first_pass_rows_ = 0;
  second_pass_ = false;
  for (size_t i = 0; i < parts_.size(); ++i) {
    const Session& session = *parts_[i].session;
    if (!parts_[i].wants_logits || !session.perspectives().has_value()) continue;
    const auto row = static_cast<size_t>(parts_[i].begin + parts_[i].rows - 1);
    const absl::Status status = looks_.Add(i, *session.perspectives(), session.sampler().seed,
                                           static_cast<int64_t>(session.tokens().size()), *rows_[row].state,
                                           rows_[row].token, decoder_.takes_asides(), session.adapter());
    if (!status.ok()) parts_[i].session->Fail(status);
  }
  const std::vector<Looks::Rows> due = looks_.Due();
  if (due.empty()) return;
  // Each before its session's own rows.
  const std::vector<BatchRow> rows = std::exchange(rows_, {});
  const std::vector<int64_t> positions = std::exchange(positions_, {});
  auto look = due.begin();
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (look != due.end() && look->part == i) AddLookRows(*look++);
    const auto begin =
        static_cast<size_t>(std::exchange(parts_[i].begin, static_cast<int32_t>(rows_.size())));
    for (size_t row = begin; row < begin + static_cast<size_t>(parts_[i].rows); ++row) {
      rows_.push_back(rows[row]);
      positions_.push_back(positions[row]);
    }
  }
}

void CoordinatorState::AddLookRows(const Looks::Rows& look) {
  look_parts_.push_back(look.part);
  look_rows_.push_back(static_cast<int32_t>(rows_.size()));
  for (const BatchRow& row : look.rows) {
    positions_.push_back(row.state->position());
    rows_.push_back(row);
  }
  has_policies_ = true;
}

CoordinatorState::Part* CoordinatorState::PartOf(int32_t row) {
  for (size_t i = 0; i < look_rows_.size(); ++i) {
    if (row >= look_rows_[i] && row < look_rows_[i] + static_cast<int32_t>(kOthers))
      return &parts_[look_parts_[i]];
  }
  for (Part& part : parts_) {
    if (row >= part.begin && row < part.begin + part.rows) return &part;
  }
  return nullptr;
}

void CoordinatorState::MakeTokenRows() {
  token_rows_.clear();
  outputs_.clear();
  std::vector<int64_t> output;  // of the decoder, by row
  int64_t next = 0;
  for (const BatchRow& row : rows_) {
    output.push_back(next);
    next += row.want_logits;
  }
  const auto add = [&](const Session& session, int32_t of) {
    TokenRow row;
    row.session = session.id();
    row.state = rows_[static_cast<size_t>(of)].state;
    row.history = session.tokens();
    row.sampler = &session.sampler();
    row.polytope = session.polytope();
    row.stored = session.stored();
    outputs_.push_back(output[static_cast<size_t>(of)]);
    row.hidden = decoder_.hidden(outputs_.back());
    token_rows_.push_back(std::move(row));
  };
  if (!second_pass_) {
    for (Part& part : parts_) {
      if (!part.wants_logits && !part.reads_along) continue;
      for (int32_t i = part.reads_along ? 0 : part.rows - 1; i < part.rows; ++i) {
        part.token_row = token_rows_.size();
        add(*part.session, part.begin + i);
        if (!part.reads_along) continue;
        TokenRow& row = token_rows_.back();
        row.contexts = part.session->contexts();
        row.known = !part.wants_logits || i + 1 < part.rows;
        row.history =
            row.history.first(static_cast<size_t>(positions_[static_cast<size_t>(part.begin + i)] + 1));
      }
    }
    own_rows_ = token_rows_.size();
  }
  for (size_t i = 0; i < kOthers * look_parts_.size(); ++i)
    add(*parts_[look_parts_[i / kOthers]].session,
        look_rows_[i / kOthers] + static_cast<int32_t>(i % kOthers));
}

// The rows of perspectives that were computed are judged; what is left are the sessions' own.
void CoordinatorState::ConcludeLooks() {
  std::vector<TokenRow>& own = second_pass_ ? kept_rows_ : token_rows_;
  const std::span<const TokenRow> others = std::span(token_rows_).subspan(second_pass_ ? 0 : own_rows_);
  Timed([&] {
    for (size_t i = 0; i < look_parts_.size(); ++i) {
      const size_t part = look_parts_[i];
      looks_.Conclude(part, others.subspan(kOthers * i, kOthers), own[parts_[part].token_row]);
    }
  });
  look_parts_.clear();
  look_rows_.clear();
  if (second_pass_) token_rows_ = std::exchange(kept_rows_, {});
  token_rows_.resize(own_rows_);
}

// Whether distributions ask for perspectives: then a second pass begins, of their rows alone.
bool CoordinatorState::LookAgain() {
  if (second_pass_) return false;
  const std::vector<Looks::Rows> asked = Timed([&] {
    return looks_.Asked([this](size_t part) -> TokenRow& { return token_rows_[parts_[part].token_row]; });
  });
  if (asked.empty()) return false;
  // The decoder's rows are overwritten.
  kept_hidden_.clear();
  kept_logits_.clear();
  for (const TokenRow& row : token_rows_) {
    kept_hidden_.insert(kept_hidden_.end(), row.hidden.begin(), row.hidden.end());
    kept_logits_.insert(kept_logits_.end(), row.model_logits.begin(), row.model_logits.end());
  }
  const auto width = static_cast<size_t>(config_.d), vocab = static_cast<size_t>(config_.vocab);
  for (size_t i = 0; i < token_rows_.size(); ++i) {
    TokenRow& row = token_rows_[i];
    // Where a look that has been judged already put others in their place, those stay.
    const bool own = row.logits.data() == row.model_logits.data();
    row.hidden = std::span(kept_hidden_).subspan(i * width, width);
    row.model_logits = std::span<const float>(kept_logits_).subspan(i * vocab, vocab);
    if (own) row.logits = row.model_logits;
  }
  kept_rows_ = std::exchange(token_rows_, {});
  second_pass_ = true;
  first_pass_rows_ = rows_.size();
  rows_.clear();
  positions_.clear();
  for (const Looks::Rows& look : asked) AddLookRows(look);
  if (const absl::Status begun = Timed([&] { return decoder_.Begin(rows_); }); !begun.ok()) {
    FailParts(begun);
    return true;
  }
  guess_.BeginStep();
  phase_ = Phase::kLayer;
  layer_ = 0;
  return true;
}

// The memory of copies, when nobody is left whose tokens are looked at.
void CoordinatorState::ReleaseLooks() {
  if (std::none_of(active_.begin(), active_.end(),
                   [](const auto& s) { return s->perspectives().has_value(); }))
    looks_.Release();
}

}  // namespace omni
