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

}  // namespace omni
