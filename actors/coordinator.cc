#include "actors/coordinator.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "actors/messages.h"
#include "actors/region.h"

namespace omni {
namespace {

class ActorIo : public CoordinatorIo {
 public:
  ActorIo(caf::event_based_actor* self, int64_t num_regions, RegionState region, OpenRequests* requests)
      : self_(self), region_(region), requests_(requests) {
    for (int64_t i = 0; i < num_regions; ++i) regions_.push_back(Spawn());
  }

  void SendJob(RegionJobPtr job) override { self_->send(regions_[job->region().index()], std::move(job)); }
  void ReplaceRegion(RegionId region) override {
    caf::actor& actor = regions_[region.index()];
    self_->demonitor(actor);
    self_->send_exit(actor, caf::exit_reason::kill);
    actor = Spawn();
  }
  void ReadAhead(LayerId layer, std::span<const ExpertId> experts) override {
    region_.source().ReadAhead(RequesterId(), layer, experts);
  }
  void StepSoon() override { self_->send(self_, step_atom_v); }
  void TickAfter(std::chrono::milliseconds delay) override { self_->delayed_send(self_, delay, tick_atom_v); }

  // The region this actor served, or -1: it has been replaced already.
  int32_t Find(const caf::actor_addr& addr) const {
    const auto at =
        std::find_if(regions_.begin(), regions_.end(), [&](const auto& r) { return r.address() == addr; });
    return at == regions_.end() ? -1 : static_cast<int32_t>(at - regions_.begin());
  }
  void StopRegions() {
    for (const caf::actor& actor : regions_) self_->send_exit(actor, caf::exit_reason::user_shutdown);
    regions_.clear();
    region_.source().ForgetRequester(RequesterId());
  }

 private:
  caf::actor Spawn() { return self_->spawn<caf::monitored>(Region, region_, requests_); }

  caf::event_based_actor* self_;
  RegionState region_;
  OpenRequests* requests_;
  std::vector<caf::actor> regions_;
};

// Nothing a client sends may end the coordinator: what throws fails the sessions it had, and the next ones
// are served.
template <typename F>
void Guarded(CoordinatorState* state, F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    state->Abort(absl::InternalError(absl::StrCat("the coordinator failed: ", e.what())));
  }
}

}  // namespace

caf::behavior Coordinator(caf::event_based_actor* self, CoordinatorState* state, int64_t num_regions,
                          RegionState region, OpenRequests* requests) {
  auto io = std::make_shared<ActorIo>(self, num_regions, region, requests);
  state->set_io(io.get());
  self->set_down_handler([state, io](caf::down_msg& down) {
    const int32_t index = io->Find(down.source);
    if (index >= 0)
      Guarded(state, [&] { state->OnRegionDown(RegionId(index), caf::to_string(down.reason)); });
  });
  self->set_exit_handler([self, io](caf::exit_msg& exit) {
    io->StopRegions();
    self->quit(exit.reason);
  });
  return {
      [=](const RegionReplyPtr& reply) { Guarded(state, [&] { state->OnReply(*reply); }); },
      [=](step_atom) { Guarded(state, [&] { state->Step(); }); },
      [=](submit_atom, const SessionPtr& session) { Guarded(state, [&] { state->Submit(session); }); },
      [=](cancel_atom, uint64_t session) { Guarded(state, [&] { state->Cancel(session); }); },
      [=](resume_atom, uint64_t session) { Guarded(state, [&] { state->Resume(session); }); },
      [=](tick_atom) { Guarded(state, [&] { state->OnTick(CoordinatorState::Clock::now()); }); },
      [=](shutdown_atom) { Guarded(state, [&] { state->Shutdown(); }); },
  };
}

}  // namespace omni
