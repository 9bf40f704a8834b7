#include "actors/local_link.h"

#include <utility>

namespace omni {

LocalLink::LocalLink(CoordinatorActor::pointer coordinator, const RegionState& region,
                     Outstanding* outstanding)
    : coordinator_(coordinator), region_(region), outstanding_(outstanding) {
  Spawn();
}

LocalLink::~LocalLink() {
  region_.ForgetPrefetches();
  coordinator_->demonitor(actor_.address());
  coordinator_->send_exit(actor_, caf::exit_reason::user_shutdown);
}

void LocalLink::Spawn() {
  outstanding_->Add();
  actor_ = coordinator_->spawn<caf::monitored>(Region, region_, outstanding_);
}

void LocalLink::Send(RegionRequestPtr request) {
  region_.Expect(request);
  coordinator_->send(actor_, std::move(request));
}

void LocalLink::Prefetch(LayerId layer, std::span<const ExpertId> experts, Foresight foresight) {
  region_.Prefetch(layer, experts, foresight);
}

void LocalLink::Renew() {
  coordinator_->demonitor(actor_.address());
  coordinator_->send_exit(actor_, caf::exit_reason::kill);
  Spawn();
}

}  // namespace omni
