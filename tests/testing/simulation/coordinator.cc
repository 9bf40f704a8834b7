#include "tests/testing/simulation/coordinator.h"

#include <utility>

#include "tests/testing/simulation/disk.h"
#include "tests/testing/simulation/toy_model.h"

namespace omni::simulation {
namespace {
constexpr milliseconds kTick{50};
}

// Lets go of the coordinator's events when it goes.
class Coordinator::AttachedLink : public ClusterLink {
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

Coordinator::Coordinator(simulation::World& world, std::string name, Network& network, Checks& checks,
                         StoreServer* store, StoreServer::OnCommit on_commit, CoordinatorSetup setup)
    : Process(world, std::move(name)),
      network_(network),
      checks_(checks),
      own_store_(store != nullptr
                     ? nullptr
                     : std::make_unique<StoreServer>(*this, DiskOfStore(), std::move(on_commit))),
      store_(store != nullptr ? *store : *own_store_),
      setup_(std::move(setup)) {
  setup_.hedges.now = [this] { return Clock(); };
}

void Coordinator::OnStart() {
  if (own_store_ != nullptr) own_store_->Open();
  parts_ = std::make_unique<Parts>();
  Parts& p = *parts_;
  p.role = std::make_unique<Mailbox>(*this);
  p.restarter = std::make_unique<Mailbox>(*this);
  p.store = std::make_unique<StoreClient>(*this, store_);
  p.budget = std::make_unique<HedgeBudget>(setup_.hedges);
  p.leadership =
      std::make_unique<Leadership>(setup_.leadership, *p.store, static_cast<Leadership::Owner&>(*this));
  if (setup_.sessions_in_cluster) {
    p.log = MakeStoreSessionLog(*p.store, [this] { return parts_->led_term; });
  } else {
    p.sessions = *Database::Open(DiskOfSessions(), {.durability = setup_.durability});
    p.log = MakeDatabaseSessionLog(*p.sessions);
  }
  p.door = std::make_unique<SimDoor>(
      *this, *p.log, [this] { return parts_->leading; },
      [this](GenerateRequest request,
             std::function<void()> notify) -> absl::StatusOr<std::unique_ptr<Answer>> {
        if (parts_->swarm == nullptr) return absl::UnavailableError("the coordinator is starting");
        return parts_->swarm->Submit(std::move(request), std::move(notify));
      });
  StartSwarm();
  p.role->Post([this] {
    parts_->leadership->Start(Clock());
    Tick();
  });
}

void Coordinator::OnKill(bool power) {
  network_.OnGone(*this, !power);
  parts_ = nullptr;
  if (own_store_ != nullptr) own_store_->Close();
  if (power) {
    Disks::Of(DiskOfStore()).PowerCut();
    Disks::Of(DiskOfSessions()).PowerCut();
  }
}

void Coordinator::StartSwarm() {
  RegionCallOptions calls;
  calls.timeout = setup_.call_timeout;
  calls.now = [this] { return Clock(); };
  parts_->swarm = std::make_unique<SimSwarm>(
      *this, calls,
      [this](RegionId region, RegionLinkEvents& events, std::shared_ptr<RegionLink> local) {
        auto link = std::make_shared<AttachedLink>(region, std::move(local), parts_->routes, *parts_->budget,
                                                   parts_->links, events);
        if (const auto placement = parts_->routes.Get())
          parts_->links.OnMoved(region, placement->regions[region.index()].epoch);
        return link;
      },
      setup_.compute);
}

void Coordinator::Tick() {
  parts_->leadership->OnTick(Clock());
  if (parts_->cluster != nullptr) parts_->cluster->OnTick(Clock());
  parts_->former = nullptr;
  AtOwn(kTick, [this] { parts_->role->Post([this] { Tick(); }); });
}

// --- Leadership

void Coordinator::OnElected(uint64_t term) {
  Parts& p = *parts_;
  world.Trace(name, " leads, term ", term);
  p.led_term = term;
  p.leading = true;
  // As with workers: every second is of a program before this one, and upgraded by its first restart.
  const bool before = incarnation() == 1 && name.back() % 2 == 0;
  p.hello = {before ? ProtocolRange{1, 1} : kClusterProtocols,
             setup_.cluster.self,
             term,
             "toy",
             static_cast<uint32_t>(ToyConfig().num_regions()),
             "c",
             {}};
  setup_.cluster.cluster.id = absl::StrCat(name, " ", incarnation());
  p.cluster = std::make_unique<ClusterState>(setup_.cluster, *p.store, p.counters,
                                             static_cast<ClusterState::World&>(*this));
  p.cluster->Lead(term, Clock());
}

void Coordinator::StepDown(const absl::Status& reason) {
  Parts& p = *parts_;
  if (p.cluster == nullptr) return;
  world.Trace(name, " leads no more: ", std::string(reason.message()));
  p.leading = false;
  p.door->EndAll(absl::UnavailableError("the coordinator leads no more"));
  p.restarter->Post([this] {
    parts_->swarm->Shutdown();
    parts_->swarm = nullptr;
    StartSwarm();
  });
  p.former = std::move(p.cluster);
  p.routes.Set(nullptr);
  for (auto& [id, peer] : p.peers) {
    peer.first->Stop();
    p.retired.push_back(std::move(peer.first));
  }
  p.peers.clear();
}

// --- The cluster's nodes

void Coordinator::Connect(const NodeId& node, const std::string& address) {
  Parts& p = *parts_;
  const auto found = p.peers.find(node);
  if (found != p.peers.end()) {
    found->second.first->SetAddress(address);
    return;
  }
  p.hello.cluster_id = p.cluster->cluster().id;
  const auto source = static_cast<int32_t>(p.next_source++);
  p.peers.emplace(
      node, std::make_pair(std::make_shared<SimPeer>(*this, setup_.peers, node, address, p.hello, source,
                                                     network_, p.links, static_cast<PeerOwner&>(*this)),
                           source));
}

void Coordinator::Disconnect(const NodeId& node) {
  const auto found = parts_->peers.find(node);
  if (found == parts_->peers.end()) return;
  found->second.first->Stop();
  parts_->retired.push_back(std::move(found->second.first));
  parts_->peers.erase(found);
}

void Coordinator::Assign(const NodeId& node, AssignFrame assign) {
  const auto found = parts_->peers.find(node);
  if (found != parts_->peers.end()) found->second.first->Assign(std::move(assign));
}

void Coordinator::Publish(const ClusterView& view) {
  Parts& p = *parts_;
  auto placement = std::make_shared<Placement>();
  placement->revision = static_cast<uint64_t>(view.revision);
  placement->nodes.resize(p.next_source);
  for (const auto& [id, peer] : p.peers) placement->nodes[static_cast<size_t>(peer.second)] = peer.first;
  const auto source_of = [&](const NodeId& id, int32_t nobody) {
    if (id == setup_.cluster.self) return Placement::kSelf;
    const auto found = p.peers.find(id);
    return found == p.peers.end() ? nobody : found->second.second;
  };
  for (size_t r = 0; r < view.regions.size(); ++r) {
    const RegionView& region = view.regions[r];
    checks_.OnOwner(view.cluster.id, RegionId(static_cast<int32_t>(r)), region.epoch,
                    region.record.owner.value, name);
    placement->regions.push_back({region.epoch, source_of(region.record.owner, Placement::kSelf),
                                  source_of(region.record.shadow, Placement::kNobody)});
    world.Trace(name, " region ", r, " epoch ", region.epoch, " owner ", region.record.owner.value,
                " shadow ", region.record.shadow.value, " target ", region.record.target.value);
  }
  p.routes.Set(placement);
  for (size_t r = 0; r < placement->regions.size(); ++r)
    p.links.OnMoved(RegionId(static_cast<int32_t>(r)), placement->regions[r].epoch);
}

std::vector<int64_t> Coordinator::RegionRequests() {
  return parts_->swarm == nullptr ? std::vector<int64_t>() : parts_->swarm->RegionRequests();
}
double Coordinator::RttMicros(const NodeId& node) {
  const auto found = parts_->peers.find(node);
  return found == parts_->peers.end()
             ? 0
             : static_cast<double>(found->second.first->counters().rtt_p50_ns.Get()) / 1e3;
}

void Coordinator::OnUp(const NodeId& node, const WelcomeFrame& welcome) {
  Post([this, node, welcome] {
    if (parts_->cluster != nullptr) parts_->cluster->OnUp(node, welcome, Clock());
  });
}
void Coordinator::OnDown(const NodeId& node, const absl::Status& reason) {
  world.Trace(name, " has lost ", node.value, ": ", std::string(reason.message()));
  Post([this, node, reason] {
    if (parts_->cluster != nullptr) parts_->cluster->OnDown(node, reason, Clock());
  });
}
void Coordinator::OnHoldings(const NodeId& node, const HoldingsFrame& holdings) {
  Post([this, node, holdings] {
    if (parts_->cluster != nullptr) parts_->cluster->OnHoldings(node, holdings);
  });
}
void Coordinator::OnFree(const NodeId& node, uint64_t bytes) {
  Post([this, node, bytes] {
    if (parts_->cluster != nullptr) parts_->cluster->OnFree(node, bytes);
  });
}

// --- What people and nodes want

void Coordinator::AskToJoin(const NodeRecord& record,
                            std::function<void(std::optional<ClusterRecord>)> done) {
  Post([this, record, done = std::move(done)] {
    if (parts_->cluster == nullptr) return done(std::nullopt);
    parts_->cluster->Join({record.address}, record, [this, done](const absl::Status& status) {
      done(status.ok() ? std::optional(parts_->cluster->cluster()) : std::nullopt);
    });
  });
}

void Coordinator::DrainAndBack(const std::string& node, Duration after) {
  Post([this, node, after] {
    if (parts_->cluster == nullptr || !parts_->cluster->ready()) return;
    parts_->cluster->Drain({node}, false, {});
    At(after, [this, node] {
      Post([this, node] {
        if (parts_->cluster != nullptr) parts_->cluster->Drain({node}, true, {});
      });
    });
  });
}

void Coordinator::Operate() {
  Post([this] {
    if (parts_->cluster == nullptr || !parts_->cluster->ready()) return;
    ClusterState& cluster = *parts_->cluster;
    Chance& chance = world.chance();
    const std::vector<NodeView>& nodes = cluster.view().nodes;
    const NodeId node = nodes[static_cast<size_t>(chance.Below(static_cast<int64_t>(nodes.size())))].id;
    const RegionId region(static_cast<int32_t>(chance.Below(ToyConfig().num_regions())));
    switch (chance.Below(5)) {
      case 0:
        cluster.Place(region, chance.Of(0.3) ? NodeId() : node, {});
        break;
      case 1:
        cluster.Drain(node, false, {});
        break;
      case 2:
        cluster.Drain(node, true, {});
        break;
      case 3:
        cluster.Forget(node, {});
        break;
      default:
        cluster.Rebalance([](const absl::StatusOr<int>&) {});
    }
  });
}

}  // namespace omni::simulation
