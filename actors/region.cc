#include "actors/region.h"

#include <exception>
#include <string>

#include "actors/messages.h"

namespace omni {
namespace {

void Answer(caf::event_based_actor* self, const caf::actor& to, RegionReplyPtr reply) {
  if (reply) self->send(to, std::move(reply));
}

// Asks for every expert of the work at once; each comes back as a message, in the order in which they are
// there.
void Request(caf::event_based_actor* self, ExpertSource& source, OpenRequests* requests,
             const RegionWorkPtr& work, const caf::actor& client) {
  for (size_t i = 0; i < work->jobs.size(); ++i) {
    requests->Add();
    source.Request(
        RequesterId(), work->jobs[i].layer, work->jobs[i].expert,
        [region = caf::actor_cast<caf::actor>(self), requests, work, i,
         client](absl::StatusOr<ExpertTiles> expert) mutable {
          auto ready = std::make_shared<const ExpertReady>(
              ExpertReady{std::move(work), i, std::move(expert), false, std::move(client)});
          caf::anon_send(region, ExpertReadyPtr(std::move(ready)));
          region = nullptr;
          requests->Remove();
        },
        // A message too: other regions ask for their experts before this one computes.
        [region = caf::actor_cast<caf::actor>(self), work, i](ExpertTiles partial) {
          auto ready = std::make_shared<const ExpertReady>(
              ExpertReady{work, i, std::move(partial), true, caf::actor()});
          caf::anon_send(region, ExpertReadyPtr(std::move(ready)));
        });
  }
}

}  // namespace

caf::behavior Region(caf::event_based_actor* self, RegionState state, OpenRequests* requests) {
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
      [self, state, requests](const RegionJobPtr& job) mutable {
        const auto client = caf::actor_cast<caf::actor>(self->current_sender());
        if (state.source().resident()) {
          Answer(self, client, state.Run(*job));
        } else if (const RegionWorkPtr work = state.Begin(*job)) {
          Request(self, state.source(), requests, work, client);
        }
      },
      [self, state](const ExpertReadyPtr& ready) mutable {
        if (ready->partial) {
          state.ServePartial(*ready->work, ready->job, *ready->expert);
        } else {
          Answer(self, ready->client, state.Serve(*ready->work, ready->job, ready->expert));
        }
      },
  };
}

}  // namespace omni
