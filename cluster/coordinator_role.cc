#include "cluster/coordinator_role.h"

#include <algorithm>
#include <future>
#include <map>
#include <mutex>
#include <utility>

#include <absl/strings/str_cat.h>

#include "actors/outstanding.h"
#include "cluster/cluster_log.h"
#include "cluster/messages.h"
#include "cluster/peer.h"

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kTick{50};

// A link that lets go of the coordinator's events when it goes.
class AttachedLink : public ClusterLink {
 public:
  AttachedLink(RegionId region, std::shared_ptr<RegionLink> local, const Routes& routes, HedgeBudget& budget,
               LinkEvents& links, RegionLinkEvents& events)
      : ClusterLink(region, std::move(local), routes, budget), links_(links), events_(events) {
    links_.Attach(&events_);
  }
  ~AttachedLink() override { links_.Detach(&events_); }

 private:
  LinkEvents& links_;
  RegionLinkEvents& events_;
};

}  // namespace

struct CoordinatorRole::Impl : public ClusterState::World, public Leadership::Owner, public PeerEvents {
  Impl(ActorSystem& actors_in, const ModelConfig& config_in, CoordinatorRoleOptions options_in,
       CoordinationStore& store_in, FrameTransport& transport_in, Swarm& swarm_in)
      : actors(actors_in),
        config(config_in),
        options(std::move(options_in)),
        store(store_in),
        transport(transport_in),
        swarm(swarm_in),
        budget(options.hedges),
        leadership(options.leadership, store, *this) {
    outstanding.Add();
    actor = actors.system().spawn(&Impl::Behavior, this);
  }

  static ClusterActor::behavior_type Behavior(ClusterActor::pointer self, Impl* impl) {
    impl->outstanding.RemoveAtEndOf(self);
    impl->self = self;
    self->set_exit_handler([self, impl](caf::exit_msg& exit) {
      impl->leadership.Resign([resigned = impl->resigned] { resigned->set_value(); });
      impl->state = nullptr;
      self->quit(exit.reason);
    });
    return {
        [](const Deed& deed) { (*deed)(); },
        [impl, self](tick_atom) {
          impl->OnTick();
          self->delayed_send(self, kTick, tick_atom_v);
        },
    };
  }

  // False: the actor has ended, and nothing will be done.
  bool Do(std::function<void()> f) {
    std::lock_guard lock(actor_mutex);
    if (!actor) return false;
    caf::anon_send(actor, std::make_shared<std::function<void()>>(std::move(f)));
    return true;
  }
  void Post(std::function<void()> f) override { Do(std::move(f)); }

  void OnTick() {
    leadership.OnTick(Clock::now());
    if (state != nullptr) state->OnTick(Clock::now());
    if (state != nullptr && ++ticks % (std::chrono::seconds(1) / kTick) == 0) swarm.OnTick();
    former = nullptr;
  }

  // --- Leadership

  void OnElected(uint64_t term) override {
    swarm.OnElected(term);
    hello = {kClusterProtocols,
             options.cluster.self,
             term,
             options.cluster.cluster.model_hash,
             static_cast<uint32_t>(config.num_regions()),
             options.cluster.cluster.name,
             {}};
    state = std::make_unique<ClusterState>(options.cluster, store, counters, *this);
    state->Lead(term, Clock::now());
  }
  void OnLost(const absl::Status& reason) override { StepDown(reason); }
  void OnOther(const LeaderRecord& leader) override { swarm.OnOther(leader); }
  void Deposed(const absl::Status& reason) override { StepDown(reason); }

  void StepDown(const absl::Status& reason) {
    if (state == nullptr) return;
    LogDeposed(options.cluster.self.value, reason);
    swarm.OnDeposed(reason);
    former = std::move(state);
    routes.Set(nullptr);
    for (auto& [id, peer] : peers) {
      peer.first->Stop();
      retired.push_back(std::move(peer.first));
    }
    peers.clear();
    Notify();
  }

  // --- The cluster's nodes

  void Connect(const NodeId& node, const std::string& address) override {
    auto found = peers.find(node);
    if (found != peers.end()) {
      found->second.first->SetAddress(address);
      return;
    }
    hello.cluster_id = state->cluster().id;
    const auto source = static_cast<int32_t>(next_source++);
    auto peer = std::make_shared<Peer>(actors, config, options.peers, node, address, hello, source, transport,
                                       links, *this);
    peers.emplace(node, std::make_pair(std::move(peer), source));
  }
  void Disconnect(const NodeId& node) override {
    const auto found = peers.find(node);
    if (found == peers.end()) return;
    found->second.first->Stop();
    retired.push_back(std::move(found->second.first));
    peers.erase(found);
  }
  void Assign(const NodeId& node, AssignFrame assign) override {
    const auto found = peers.find(node);
    if (found != peers.end()) found->second.first->Assign(std::move(assign));
  }
  void Publish(const ClusterView& view) override {
    auto placement = std::make_shared<Placement>();
    placement->revision = static_cast<uint64_t>(view.revision);
    placement->nodes.resize(next_source);
    for (const auto& [id, peer] : peers) placement->nodes[static_cast<size_t>(peer.second)] = peer.first;
    const auto source_of = [&](const NodeId& id, int32_t nobody) {
      if (id == options.cluster.self) return Placement::kSelf;
      const auto found = peers.find(id);
      return found == peers.end() ? nobody : found->second.second;
    };
    for (const RegionView& region : view.regions) {
      placement->regions.push_back({region.epoch, source_of(region.record.owner, Placement::kSelf),
                                    source_of(region.record.shadow, Placement::kNobody)});
    }
    routes.Set(placement);
    for (size_t r = 0; r < placement->regions.size(); ++r)
      links.OnMoved(RegionId(static_cast<int32_t>(r)), placement->regions[r].epoch);
  }
  void Changed(const ClusterView&) override { Notify(); }
  std::vector<int64_t> RegionRequests() override { return swarm.RegionRequests(); }
  double RttMicros(const NodeId& node) override {
    const auto found = peers.find(node);
    return found == peers.end() ? 0
                                : static_cast<double>(found->second.first->counters().rtt_p50_ns.Get()) / 1e3;
  }

  void OnUp(const NodeId& node, const WelcomeFrame& welcome) override {
    Do([this, node, welcome] {
      if (state != nullptr) state->OnUp(node, welcome, Clock::now());
    });
  }
  void OnDown(const NodeId& node, const absl::Status& reason) override {
    Do([this, node, reason] {
      if (state != nullptr) state->OnDown(node, reason, Clock::now());
    });
  }
  void OnHoldings(const NodeId& node, const HoldingsFrame& holdings) override {
    Do([this, node, holdings] {
      if (state != nullptr) state->OnHoldings(node, holdings);
    });
  }
  void OnFree(const NodeId& node, uint64_t bytes) override {
    Do([this, node, bytes] {
      if (state != nullptr) state->OnFree(node, bytes);
    });
  }

  absl::Status NotLeading() const {
    return absl::UnavailableError(
        absl::StrCat("node ", options.cluster.self.value, " does not coordinate at present"));
  }

  ClusterReport MakeReport() const {
    ClusterReport report;
    report.region_bytes = options.cluster.region_bytes;
    report.region_requests = swarm.RegionRequests();
    report.view = state->view();
    for (const auto& [id, peer] : peers) {
      const PeerCounters& c = peer.first->counters();
      report.peers.push_back({id, peer.first->health().suspect(), c.sent_bytes.Get(), c.received_bytes.Get(),
                              c.requests.Get(), c.answers.Get(), c.refused.Get(), c.connections.Get(),
                              std::chrono::nanoseconds(c.rtt_p50_ns.Get()),
                              std::chrono::nanoseconds(c.rtt_p99_ns.Get())});
    }
    for (const PeerView& peer : report.peers) report.refused += peer.refused;
    report.failovers = counters.failovers.Get();
    report.migrations = counters.migrations.Get();
    report.migrations_cancelled = counters.migrations_cancelled.Get();
    report.hedges_sent = budget.counters().sent.Get();
    report.hedges_won = budget.counters().won.Get();
    report.hedges_lost = budget.counters().lost.Get();
    report.hedges_withheld = budget.counters().withheld.Get();
    report.rerouted = budget.counters().failovers.Get();
    return report;
  }

  void Notify() {
    std::erase_if(watches, [](const auto& watch) { return watch.expired(); });
    for (const auto& watch : watches) {
      if (const auto on_change = watch.lock()) (*on_change)();
    }
  }

  ActorSystem& actors;
  const ModelConfig& config;
  const CoordinatorRoleOptions options;
  CoordinationStore& store;
  FrameTransport& transport;
  Swarm& swarm;

  LinkEvents links;
  Routes routes;
  HedgeBudget budget;
  ClusterCounters counters;
  // Shared with the store's answer, which may come when nobody waits for it.
  std::shared_ptr<std::promise<void>> resigned = std::make_shared<std::promise<void>>();
  Leadership leadership;
  HelloFrame hello;
  std::unique_ptr<ClusterState> state;
  std::unique_ptr<ClusterState> former;  // it stepped down in a call of its own, which has to return
  std::map<NodeId, std::pair<std::shared_ptr<Peer>, int32_t>> peers;
  std::vector<std::shared_ptr<Peer>> retired;  // links may hold an earlier placement that names them
  size_t next_source = 0;
  int64_t ticks = 0;
  std::vector<std::weak_ptr<std::function<void()>>> watches;

  Outstanding outstanding;
  std::mutex actor_mutex;
  ClusterActor actor;
  ClusterActor::pointer self = nullptr;
};

CoordinatorRole::CoordinatorRole(ActorSystem& actors, const ModelConfig& config,
                                 CoordinatorRoleOptions options, CoordinationStore& store,
                                 FrameTransport& transport, Swarm& swarm)
    : impl_(std::make_unique<Impl>(actors, config, std::move(options), store, transport, swarm)) {}

CoordinatorRole::~CoordinatorRole() { Stop(); }

void CoordinatorRole::Stop() {
  {
    std::lock_guard lock(impl_->actor_mutex);
    if (!impl_->actor) return;
    caf::anon_send_exit(impl_->actor, caf::exit_reason::user_shutdown);
    impl_->actor = nullptr;
  }
  impl_->outstanding.WaitForNone();
  // Nobody else waits for what a store of its own says.
  constexpr std::chrono::milliseconds kAlone{3'000};
  const LeadershipOptions& leadership = impl_->options.leadership;
  impl_->resigned->get_future().wait_for(leadership.exclusive ? kAlone : 2 * leadership.ttl);
  impl_->routes.Set(nullptr);
}

LinkFactory CoordinatorRole::MakeLinks() {
  return [impl = impl_.get()](RegionId region, RegionLinkEvents& events, std::shared_ptr<RegionLink> local) {
    auto link = std::make_shared<AttachedLink>(region, std::move(local), impl->routes, impl->budget,
                                               impl->links, events);
    if (const auto placement = impl->routes.Get())
      impl->links.OnMoved(region, placement->regions[region.index()].epoch);
    return link;
  };
}

void CoordinatorRole::Start() {
  impl_->Do([impl = impl_.get()] {
    impl->leadership.Start(Clock::now());
    impl->self->send(impl->self, tick_atom_v);
  });
}

void CoordinatorRole::Join(NodeId node, NodeRecord record,
                           std::function<void(absl::StatusOr<ClusterRecord>)> done) {
  impl_->Do([impl = impl_.get(), node = std::move(node), record = std::move(record), done = std::move(done)] {
    if (impl->state == nullptr) return done(impl->NotLeading());
    impl->state->Join(node, record, [impl, done](const absl::Status& joined) {
      if (!joined.ok()) return done(joined);
      done(impl->state->cluster());
    });
  });
}
void CoordinatorRole::Place(RegionId region, NodeId node, Done done) {
  impl_->Do([impl = impl_.get(), region, node = std::move(node), done = std::move(done)] {
    if (impl->state == nullptr) return done(impl->NotLeading());
    impl->state->Place(region, node, done);
  });
}
void CoordinatorRole::Drain(NodeId node, bool undo, Done done) {
  impl_->Do([impl = impl_.get(), node = std::move(node), undo, done = std::move(done)] {
    if (impl->state == nullptr) return done(impl->NotLeading());
    impl->state->Drain(node, undo, done);
  });
}
void CoordinatorRole::Forget(NodeId node, Done done) {
  impl_->Do([impl = impl_.get(), node = std::move(node), done = std::move(done)] {
    if (impl->state == nullptr) return done(impl->NotLeading());
    impl->state->Forget(node, done);
  });
}
void CoordinatorRole::Rebalance(std::function<void(absl::StatusOr<int>)> done) {
  impl_->Do([impl = impl_.get(), done = std::move(done)] {
    if (impl->state == nullptr) return done(impl->NotLeading());
    impl->state->Rebalance(done);
  });
}
void CoordinatorRole::Report(std::function<void(absl::StatusOr<ClusterReport>)> done) {
  impl_->Do([impl = impl_.get(), done = std::move(done)] {
    if (impl->state == nullptr || !impl->state->ready()) return done(impl->NotLeading());
    done(impl->MakeReport());
  });
}
std::shared_ptr<void> CoordinatorRole::Watch(std::function<void()> on_change) {
  auto watch = std::make_shared<std::function<void()>>(std::move(on_change));
  impl_->Do([impl = impl_.get(), weak = std::weak_ptr(watch)] { impl->watches.push_back(weak); });
  return watch;
}

}  // namespace omni
