#include "actors/region.h"

#include <exception>
#include <string>

#include "actors/messages.h"

namespace omni {

caf::behavior Region(caf::event_based_actor* self, RegionState state) {
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
      [self, state](const RegionJobPtr& job) mutable {
        if (RegionReplyPtr reply = state.Run(*job)) {
          self->send(caf::actor_cast<caf::actor>(self->current_sender()), std::move(reply));
        }
      },
  };
}

}  // namespace omni
