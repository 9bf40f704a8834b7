#include "cluster/peer.h"

#include <random>
#include <utility>
#include <vector>

#include "actors/outstanding.h"
#include "cluster/messages.h"

namespace omni {

void LinkEvents::Attach(RegionLinkEvents* events) {
  std::lock_guard lock(mutex_);
  events_ = events;
}
void LinkEvents::Detach(RegionLinkEvents* events) {
  std::lock_guard lock(mutex_);
  if (events_ == events) events_ = nullptr;
}
void LinkEvents::OnReply(RegionReplyPtr reply) {
  std::lock_guard lock(mutex_);
  if (events_ != nullptr) events_->OnReply(std::move(reply));
}
void LinkEvents::OnLost(RegionId region, std::string reason) {
  std::lock_guard lock(mutex_);
  if (events_ != nullptr) events_->OnLost(region, std::move(reason));
}
void LinkEvents::OnMoved(RegionId region, uint64_t epoch) {
  std::lock_guard lock(mutex_);
  if (events_ != nullptr) events_->OnMoved(region, epoch);
}

namespace {

using Clock = PeerState::Clock;

// A stream whose frames arrive at the actor with the stream's number: what an earlier stream said may still
// lie in the mailbox when the next one is open.
class NumberedStream : public FrameStream, public FrameStreamEvents {
 public:
  NumberedStream(PeerActor to, uint64_t number)
      : to_(caf::actor_cast<caf::actor_addr>(to)), number_(number) {}
  void Open(FrameTransport& transport, const std::string& address) {
    inner_ = transport.Open(address, *this);
  }

  void Write(std::string frame) override { inner_->Write(std::move(frame)); }
  int64_t unsent_bytes() const override { return inner_->unsent_bytes(); }
  void OnFrame(FrameBytes frame) override {
    if (const auto to = caf::actor_cast<PeerActor>(to_))
      caf::anon_send(to, std::make_shared<PeerFrame>(PeerFrame{number_, std::move(frame)}));
  }
  void OnClosed(absl::Status status) override {
    if (const auto to = caf::actor_cast<PeerActor>(to_))
      caf::anon_send(to, std::make_shared<PeerClosed>(PeerClosed{number_, std::move(status)}));
  }

 private:
  caf::actor_addr to_;
  uint64_t number_;
  std::unique_ptr<FrameStream> inner_;  // goes first
};

// Streams as the state opens them.
class NumberedStreams {
 public:
  explicit NumberedStreams(FrameTransport& inner) : inner_(inner) {}
  void set_actor(PeerActor::pointer self) { self_ = self; }
  uint64_t last() const { return last_; }
  std::unique_ptr<FrameStream> Open(const std::string& address) {
    auto stream = std::make_unique<NumberedStream>(caf::actor_cast<PeerActor>(self_), ++last_);
    stream->Open(inner_, address);
    return stream;
  }

 private:
  FrameTransport& inner_;
  PeerActor::pointer self_ = nullptr;
  uint64_t last_ = 0;
};

}  // namespace

struct Peer::Impl : public PeerState::Owner {
  Impl(const ModelConfig& config_in, const PeerOptions& options, NodeId node_in, std::string address,
       HelloFrame hello, int32_t source, FrameTransport& transport_in, LinkEvents& links,
       PeerEvents& events_in)
      : config(config_in),
        node(std::move(node_in)),
        events(events_in),
        streams(transport_in),
        health(config.num_regions(), node.value),
        state(
            config, options, std::move(address), std::move(hello),
            [this](const std::string& to) { return streams.Open(to); }, health, counters, links, *this,
            std::random_device{}(), source) {}

  void OnUp(const WelcomeFrame& welcome) override { events.OnUp(node, welcome); }
  void OnDown(const absl::Status& reason) override { events.OnDown(node, reason); }
  void OnHoldings(const HoldingsFrame& holdings) override { events.OnHoldings(node, holdings); }
  void OnFree(uint64_t bytes) override { events.OnFree(node, bytes); }

  static PeerActor::behavior_type Behavior(PeerActor::pointer self, Impl* impl) {
    impl->outstanding.RemoveAtEndOf(self);
    impl->streams.set_actor(self);
    self->set_exit_handler([self, impl](caf::exit_msg& exit) {
      impl->state.Stop();
      self->quit(exit.reason);
    });
    PeerState& state = impl->state;
    state.Start(Clock::now());
    self->delayed_send(self, state.TickEvery(), tick_atom_v);
    return {
        [&state](const PeerRequestsPtr& m) { state.Send(std::move(m->requests), Clock::now()); },
        [&state](const PeerPrefetchPtr& m) { state.Prefetch(m->frame); },
        [&state](const PeerCancel& m) { state.Cancel(m.request); },
        [&state](const PeerAssignPtr& m) { state.Assign(std::move(m->frame), Clock::now()); },
        [&state](const PeerAddressPtr& m) { state.SetAddress(std::move(m->address)); },
        [&state, impl](const PeerFramePtr& m) {
          if (m->stream == impl->streams.last()) state.OnFrame(m->bytes, Clock::now());
        },
        [&state, impl](const PeerClosedPtr& m) {
          if (m->stream == impl->streams.last()) state.OnClosed(m->status, Clock::now());
        },
        [&state, self](tick_atom) {
          state.OnTick(Clock::now());
          self->delayed_send(self, state.TickEvery(), tick_atom_v);
        },
    };
  }

  const ModelConfig& config;
  const NodeId node;
  PeerEvents& events;
  NumberedStreams streams;
  NodeHealth health;
  PeerCounters counters;
  PeerState state;
  Outstanding outstanding;
  PeerActor actor;
  std::vector<RegionRequestPtr> gathered;  // on the coordinator's thread
};

Peer::Peer(ActorSystem& actors, const ModelConfig& config, const PeerOptions& options, NodeId node,
           std::string address, HelloFrame hello, int32_t source, FrameTransport& transport,
           LinkEvents& links, PeerEvents& events)
    : impl_(std::make_unique<Impl>(config, options, std::move(node), std::move(address), std::move(hello),
                                   source, transport, links, events)) {
  impl_->outstanding.Add();
  impl_->actor = actors.system().spawn(&Impl::Behavior, impl_.get());
}

Peer::~Peer() {
  caf::anon_send_exit(impl_->actor, caf::exit_reason::user_shutdown);
  impl_->actor = nullptr;
  impl_->outstanding.WaitForNone();
}

void Peer::Stop() { caf::anon_send_exit(impl_->actor, caf::exit_reason::user_shutdown); }
void Peer::Send(RegionRequestPtr request) { impl_->gathered.push_back(std::move(request)); }
void Peer::Flush() {
  if (impl_->gathered.empty()) return;
  caf::anon_send(impl_->actor,
                 std::make_shared<PeerRequests>(PeerRequests{std::exchange(impl_->gathered, {})}));
}
void Peer::Prefetch(PrefetchFrame prefetch) {
  caf::anon_send(impl_->actor, std::make_shared<PeerPrefetch>(PeerPrefetch{std::move(prefetch)}));
}
void Peer::Cancel(uint64_t request_id) { caf::anon_send(impl_->actor, PeerCancel{request_id}); }
NodeHealth& Peer::health() { return impl_->health; }
void Peer::Assign(AssignFrame assign) {
  caf::anon_send(impl_->actor, std::make_shared<PeerAssign>(PeerAssign{std::move(assign)}));
}
void Peer::SetAddress(std::string address) {
  caf::anon_send(impl_->actor, std::make_shared<PeerAddress>(PeerAddress{std::move(address)}));
}
const PeerCounters& Peer::counters() const { return impl_->counters; }
const NodeId& Peer::node() const { return impl_->node; }

}  // namespace omni
