// A link that loses what is sent over it, or breaks, when a test says so.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "actors/region_link.h"

namespace omni::testing {

enum class LinkFault {
  kNone,
  kBreak,  // the region is lost with the request in hand
  kLose,   // the request is swallowed; no answer ever comes
};

class FaultyLink : public RegionLink {
 public:
  using Fault = std::function<LinkFault(const RegionRequest&)>;

  FaultyLink(RegionLinkEvents& events, std::shared_ptr<RegionLink> inner, Fault fault)
      : events_(events), inner_(std::move(inner)), fault_(std::move(fault)) {}

  void Send(RegionRequestPtr request) override {
    switch (fault_(*request)) {
      case LinkFault::kNone:
        inner_->Send(std::move(request));
        break;
      case LinkFault::kBreak:
        events_.OnLost(request->region, "injected break");
        break;
      case LinkFault::kLose:
        break;
    }
  }
  void Flush() override { inner_->Flush(); }
  void Prefetch(LayerId layer, std::span<const ExpertId> experts, Foresight foresight) override {
    inner_->Prefetch(layer, experts, foresight);
  }
  void Renew() override { inner_->Renew(); }

 private:
  RegionLinkEvents& events_;
  std::shared_ptr<RegionLink> inner_;
  Fault fault_;
};

// Every region behind such a link.
inline LinkFactory FaultyLinks(FaultyLink::Fault fault) {
  return [fault = std::move(fault)](RegionId, RegionLinkEvents& events, std::shared_ptr<RegionLink> local) {
    return std::make_shared<FaultyLink>(events, std::move(local), fault);
  };
}

}  // namespace omni::testing
