#include "engine/around/context_stage.h"

#include <algorithm>
#include <new>

#include "engine/around/distribution.h"

namespace omni {

bool SessionContexts::Read(TokenRow& row, const kernels::Ops& ops, std::vector<float>& mixed) {
  if (asked_after_ > 0 && row.history.size() == asked_after_ + 1) {
    mixer_.Learn(row.history.back());
    memory_.Learn(row.history.back());
  }
  const std::vector<ContextGuess> guesses = memory_.Ask(row.history, row.hidden);
  asked_after_ = row.history.size();
  // Weights are learned from the session's own distribution, which is there again when the text is read
  // again; that of perspectives is not.
  const GuessMixer before = mixer_;
  mixed.resize(row.model_logits.size());
  Softmax(ops, row.model_logits, 1.0f, mixed);
  MixedGuesses said = mixer_.Mix(guesses, mixed);
  if (row.known) return false;
  row.notes.contexts = ContextNote{};
  if (row.choice.has_value()) return false;
  if (row.logits.data() != row.model_logits.data()) {
    Softmax(ops, row.logits, 1.0f, mixed);
    GuessMixer aside = before;
    said = aside.Mix(guesses, mixed);
  }
  if (said.order == 0) return false;
  row.notes.contexts = ContextNote{said.weight, said.order};
  ops.log(mixed.data(), std::ssize(mixed), mixed.data());
  return true;
}

void ContextStage::ReadSession(std::span<TokenRow> rows, std::span<std::vector<float>> mixed) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].status.ok()) return;  // the session ends
    try {
      if (rows[i].contexts->Read(rows[i], ops_, mixed[i])) rows[i].logits = mixed[i];
    } catch (const std::bad_alloc&) {
      rows[i].status = absl::ResourceExhaustedError("no memory for the session's memory of contexts");
      return;
    }
  }
}

bool ContextStage::Run(std::span<TokenRow> rows, const Done&) {
  // Rows of a session are adjacent, and are read in their order.
  struct Range {
    size_t begin, size;
  };
  std::vector<Range> sessions;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].contexts == nullptr) continue;
    if (i > 0 && rows[i - 1].contexts == rows[i].contexts) {
      ++sessions.back().size;
    } else {
      sessions.push_back({i, 1});
    }
  }
  if (sessions.empty()) {
    mixed_ = {};
    return true;
  }
  mixed_.resize(std::max(mixed_.size(), rows.size()));
  const auto read = [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const Range& range = sessions[static_cast<size_t>(s)];
      ReadSession(rows.subspan(range.begin, range.size), std::span(mixed_).subspan(range.begin, range.size));
    }
  };
  if (pool_ == nullptr) {
    read(0, std::ssize(sessions));
  } else {
    pool_->Run(std::ssize(sessions), 1, read);
  }
  return true;
}

}  // namespace omni
