#include "actors/generate.h"

#include <algorithm>

namespace omni {

const char* StopReasonName(StopReason reason) {
  switch (reason) {
    case StopReason::kLength:
      return "length";
    case StopReason::kEndOfText:
      return "end_of_text";
    case StopReason::kStop:
      return "stop";
    case StopReason::kContext:
      return "context";
    case StopReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

void NotesSummary::Add(const TokenNotes& notes) {
  if (notes.safety.has_value()) {
    const float moved = notes.safety->distance;
    ++projectable;
    projected += moved > 0;
    distance += static_cast<double>(moved);
    largest_distance = std::max(largest_distance, moved);
  }
  if (notes.contexts.has_value()) {
    ++remembering;
    recalled += notes.contexts->order > 0;
    weight += static_cast<double>(notes.contexts->weight);
  }
  if (notes.recall.has_value()) {
    ++asked;
    remembered += notes.recall->found;
  }
}

void ConfidenceSummary::Add(const TokenConfidence& confidence) {
  ++tokens;
  sum += static_cast<double>(confidence.confidence);
  if (!confidence.looked.has_value()) return;
  ++looked;
  disagreeing += confidence.looked->disagree;
  uncertain += confidence.looked->uncertain;
  changed += confidence.looked->changed;
}

namespace {
double Rate(int64_t tokens, std::chrono::nanoseconds time) {
  if (tokens <= 0 || time.count() <= 0) return 0;
  return static_cast<double>(tokens) / std::chrono::duration<double>(time).count();
}
}  // namespace

double Timings::PrefillRate() const { return Rate(prompt_tokens, prefill); }
double Timings::DecodeRate() const { return Rate(generated_tokens - 1, decode); }

}  // namespace omni
