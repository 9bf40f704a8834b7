#include "actors/coordinator.h"

#include <algorithm>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "actors/local_link.h"

namespace omni {
namespace {

// From any thread to the coordinator's actor, as long as there is one.
class Mailbox : public RegionLinkEvents {
 public:
  explicit Mailbox(CoordinatorActor::pointer self) : to_(self->address()) {}

  void OnReply(RegionReplyPtr reply) override { Send(std::move(reply)); }
  void OnLost(RegionId region, std::string reason) override {
    Send(lost_atom_v, region.value, std::move(reason));
  }
  void OnMoved(RegionId region, uint64_t epoch) override { Send(moved_atom_v, region.value, epoch); }

  template <typename... T>
  void Send(T&&... message) {
    if (const auto actor = caf::actor_cast<CoordinatorActor>(to_))
      caf::anon_send(actor, std::forward<T>(message)...);
  }

 private:
  caf::actor_addr to_;
};

// The actor's belongings; they go with it.
class World : public StepTimer {
 public:
  World(CoordinatorActor::pointer self, int64_t num_regions, const RegionState& region,
        Outstanding* outstanding, const LinkFactory& make_link)
      : self_(self), mailbox_(self) {
    for (int32_t i = 0; i < num_regions; ++i) {
      auto local = std::make_shared<LocalLink>(self, region.For(RequesterId(i)), outstanding);
      local_.push_back(local);
      links_.push_back(make_link ? make_link(RegionId(i), mailbox_, std::move(local)) : std::move(local));
    }
  }

  const std::vector<std::shared_ptr<RegionLink>>& links() const { return links_; }
  void Stop() { links_.clear(); }  // the regions end

  void StepSoon() override { self_->send(self_, step_atom_v); }
  void TickAfter(std::chrono::milliseconds delay) override { self_->delayed_send(self_, delay, tick_atom_v); }
  void WakeAt(std::chrono::steady_clock::time_point time) override {
    self_->delayed_send(self_, std::max(std::chrono::nanoseconds(0), time - std::chrono::steady_clock::now()),
                        wake_atom_v);
  }
  void PartDone() override { mailbox_.Send(part_atom_v); }

  // The region this actor served, or -1: it has been replaced already.
  int32_t Find(const caf::actor_addr& address) const {
    for (size_t i = 0; i < local_.size(); ++i) {
      const auto link = local_[i].lock();
      if (link != nullptr && link->Is(address)) return static_cast<int32_t>(i);
    }
    return -1;
  }

 private:
  CoordinatorActor::pointer self_;
  Mailbox mailbox_;
  std::vector<std::weak_ptr<LocalLink>> local_;  // a factory may have let go of one
  std::vector<std::shared_ptr<RegionLink>> links_;
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

CoordinatorActor::behavior_type Coordinator(CoordinatorActor::pointer self, CoordinatorState* state,
                                            int64_t num_regions, RegionState region, Outstanding* outstanding,
                                            LinkFactory make_link) {
  outstanding->RemoveAtEndOf(self);
  auto world = std::make_shared<World>(self, num_regions, region, outstanding, make_link);
  state->Connect(world.get(), world->links());
  self->set_down_handler([state, world](caf::down_msg& down) {
    const int32_t index = world->Find(down.source);
    if (index >= 0) Guarded(state, [&] { state->OnLost(RegionId(index), caf::to_string(down.reason)); });
  });
  self->set_exit_handler([self, state, world](caf::exit_msg& exit) {
    state->Disconnect();
    world->Stop();
    self->quit(exit.reason);
  });
  return {
      [=](const RegionReplyPtr& reply) { Guarded(state, [&] { state->OnReply(*reply); }); },
      [=](lost_atom, int32_t region_id, const std::string& reason) {
        Guarded(state, [&] { state->OnLost(RegionId(region_id), reason); });
      },
      [=](moved_atom, int32_t region_id, uint64_t epoch) {
        Guarded(state, [&] { state->OnMoved(RegionId(region_id), epoch); });
      },
      [=](submit_atom, const SessionPtr& session) { Guarded(state, [&] { state->Submit(session); }); },
      [=](cancel_atom, uint64_t session) { Guarded(state, [&] { state->Cancel(SessionId(session)); }); },
      [=](resume_atom, uint64_t session) { Guarded(state, [&] { state->Resume(SessionId(session)); }); },
      [=](snapshot_atom, const SnapshotQuestionPtr& question) {
        Guarded(state, [&] { state->Snapshot(question->session, std::move(question->promise)); });
      },
      [=](step_atom) { Guarded(state, [&] { state->Step(); }); },
      [=](part_atom) { Guarded(state, [&] { state->OnPartDone(); }); },
      [=](tick_atom) { Guarded(state, [&] { state->OnTick(CoordinatorState::Clock::now()); }); },
      [=](wake_atom) { Guarded(state, [&] { state->OnWake(CoordinatorState::Clock::now()); }); },
      [=](shutdown_atom) { Guarded(state, [&] { state->Shutdown(); }); },
  };
}

}  // namespace omni
