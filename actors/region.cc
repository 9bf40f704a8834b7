#include "actors/region.h"

#include <exception>
#include <memory>
#include <string>
#include <utility>

namespace omni {
namespace {

// A request to the expert source, open as long as one of its callbacks is left.
struct OpenRequest {
  OpenRequest(RegionActor r, caf::strong_actor_ptr c, Outstanding* all)
      : region(std::move(r)), client(std::move(c)), outstanding(all) {
    outstanding->Add();
  }
  ~OpenRequest() {
    region = nullptr;  // before the actor system may go
    client = nullptr;
    outstanding->Remove();
  }
  OpenRequest(const OpenRequest&) = delete;
  OpenRequest& operator=(const OpenRequest&) = delete;

  RegionActor region;
  caf::strong_actor_ptr client;  // who gets the reply
  Outstanding* outstanding;
};

RegionState::Post PostTo(RegionActor::pointer self, Outstanding* outstanding) {
  auto open =
      std::make_shared<OpenRequest>(caf::actor_cast<RegionActor>(self), self->current_sender(), outstanding);
  return [open](ExpertArrival arrival) {
    auto ready = std::make_shared<const ExpertReady>(ExpertReady{std::move(arrival), open->client});
    caf::anon_send(open->region, ExpertReadyPtr(std::move(ready)));
  };
}

void Answer(RegionActor::pointer self, const caf::strong_actor_ptr& to, RegionReplyPtr reply) {
  if (reply) self->send(caf::actor_cast<RegionClientActor>(to), std::move(reply));
}

}  // namespace

RegionActor::behavior_type Region(RegionActor::pointer self, RegionState state, Outstanding* outstanding) {
  outstanding->RemoveAtEndOf(self);
  self->set_exception_handler([](std::exception_ptr& e) -> caf::error {
    try {
      std::rethrow_exception(e);
    } catch (const std::exception& x) {
      return caf::make_error(caf::sec::runtime_error, std::string(x.what()));
    } catch (...) {
      return caf::make_error(caf::sec::runtime_error, std::string("unknown exception"));
    }
  });
  return {
      [self, state, outstanding](const RegionRequestPtr& request) mutable {
        const RegionState::Post post = state.resident() ? nullptr : PostTo(self, outstanding);
        Answer(self, self->current_sender(), state.Start(request, post));
      },
      [self, state](const ExpertReadyPtr& ready) mutable {
        Answer(self, ready->client, state.OnArrival(ready->arrival));
      },
  };
}

}  // namespace omni
