// What CoordinatorState gives to the stages between hidden state and token, and takes from them.
#include <span>

#include "actors/coordinator_state.h"

namespace omni {

// Before a stage changes anything.
void CoordinatorState::TakeHidden() {
  auto next = static_cast<int64_t>(token_rows_.size());
  for (const Part& part : parts_) {
    if (!part.session->embeds()) continue;
    for (int32_t i = 0; i < part.rows; ++i) part.session->OnHidden(decoder_.hidden(next++));
  }
}

absl::Status CoordinatorState::TakeLogits() {
  absl::StatusOr<std::span<const float>> logits = decoder_.logits();
  if (!logits.ok()) return logits.status();
  const auto vocab = static_cast<size_t>(config_.vocab);
  for (size_t i = 0; i < token_rows_.size(); ++i) {
    token_rows_[i].model_logits = logits->subspan(static_cast<size_t>(outputs_[i]) * vocab, vocab);
    token_rows_[i].logits = token_rows_[i].model_logits;
  }
  return absl::OkStatus();
}

void CoordinatorState::Count(const TokenNotes& notes) {
  if (notes.safety.has_value()) {
    counters_.safety_tokens.Add(1);
    counters_.safety_projected.Add(notes.safety->distance > 0);
  }
  if (notes.contexts.has_value()) {
    counters_.context_tokens.Add(1);
    counters_.context_recalled.Add(notes.contexts->order > 0);
  }
  if (notes.recall.has_value()) {
    counters_.memory_asked.Add(1);
    counters_.memory_recalled.Add(notes.recall->found);
  }
}

// A row of the prompt that a stage could not do.
void CoordinatorState::FailIfUnread(const Part& part) {
  const auto rows = static_cast<size_t>(part.rows);
  for (const TokenRow& row : std::span(token_rows_).subspan(part.token_row + 1 - rows, rows)) {
    if (row.known && !row.status.ok()) part.session->Fail(row.status);
  }
}

}  // namespace omni
