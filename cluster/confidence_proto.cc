#include "cluster/confidence_proto.h"

#include <cmath>

namespace omni {

inference::v1::Confidence ToProto(const TokenConfidence& confidence) {
  inference::v1::Confidence proto;
  proto.set_confidence(confidence.confidence);
  if (!confidence.looked.has_value()) return proto;
  const PerspectiveVerdict& verdict = *confidence.looked;
  proto.set_perspectives(kPerspectives);
  proto.set_agreement(static_cast<float>(verdict.votes) / static_cast<float>(kPerspectives));
  proto.set_disagreement(verdict.disagreement);
  proto.set_disagree(verdict.disagree);
  proto.set_uncertain(verdict.uncertain);
  proto.set_changed(verdict.changed);
  return proto;
}

TokenConfidence FromProto(const inference::v1::Confidence& proto, TokenId token) {
  TokenConfidence confidence;
  confidence.confidence = proto.confidence();
  if (proto.perspectives() == 0) return confidence;
  PerspectiveVerdict& verdict = confidence.looked.emplace();
  verdict.disagreement = proto.disagreement();
  verdict.disagree = proto.disagree();
  verdict.votes = static_cast<int>(std::lround(proto.agreement() * static_cast<float>(kPerspectives)));
  verdict.uncertain = proto.uncertain();
  verdict.changed = proto.changed();
  verdict.token = token;
  return confidence;
}

absl::Status NotAdapted(const std::string& coordinator) {
  return absl::FailedPreconditionError(
      absl::StrCat("adapter: ", coordinator,
                   " answers without it, because it is of a version that knows no adapters; upgrade it"));
}

void TellNotes(const TokenNotes& notes, inference::v1::Token& token) {
  if (notes.safety.has_value()) {
    token.mutable_safety()->set_distance(notes.safety->distance);
    token.mutable_safety()->set_half_spaces(static_cast<uint32_t>(notes.safety->half_spaces));
  }
  if (notes.contexts.has_value()) {
    token.mutable_contexts()->set_weight(notes.contexts->weight);
    token.mutable_contexts()->set_order(static_cast<uint32_t>(notes.contexts->order));
  }
  if (notes.recall.has_value()) {
    inference::v1::Recall& recall = *token.mutable_recall();
    recall.set_found(notes.recall->found);
    recall.set_words(static_cast<uint32_t>(notes.recall->words));
    recall.set_begun(static_cast<uint32_t>(notes.recall->begun));
    recall.set_votes(static_cast<uint32_t>(notes.recall->votes));
  }
}

TokenNotes NotesOf(const inference::v1::Token& token) {
  TokenNotes notes;
  if (token.has_safety())
    notes.safety = SafetyNote{token.safety().distance(), static_cast<int32_t>(token.safety().half_spaces())};
  if (token.has_contexts())
    notes.contexts = ContextNote{token.contexts().weight(), static_cast<int32_t>(token.contexts().order())};
  if (token.has_recall()) {
    const inference::v1::Recall& recall = token.recall();
    notes.recall = RecallNote{recall.found(), static_cast<int32_t>(recall.words()),
                              static_cast<int32_t>(recall.begun()), static_cast<int32_t>(recall.votes())};
  }
  return notes;
}

}  // namespace omni
