#include "tests/testing/simulation/cluster.h"

#include <algorithm>
#include <utility>

#include "tests/testing/simulation/toy_model.h"

namespace omni::simulation {
namespace {

Duration Way(World& world) { return microseconds(100) + Duration(world.chance().Below(400'000)); }

CoordinatorSetup Setup(World& world, const std::string& name, bool clustered) {
  constexpr milliseconds kTtl{600};
  Chance& chance = world.chance();
  CoordinatorSetup setup;
  setup.cluster.self = {name};
  setup.cluster.address = name;
  setup.cluster.cluster = {"c", "toy", static_cast<int32_t>(ToyConfig().num_regions())};
  setup.cluster.offered_bytes = static_cast<uint64_t>(100 * chance.Below(4));
  setup.cluster.region_bytes.assign(static_cast<size_t>(ToyConfig().num_regions()), 100);
  setup.cluster.gone = milliseconds(600);
  setup.cluster.weigh = milliseconds(500);
  setup.leadership.self = {{name}, name, "folder of " + name};
  setup.leadership.ttl = kTtl;
  setup.leadership.margin = kTtl / 5;
  setup.leadership.exclusive = !clustered;
  setup.peers = {.heartbeat = milliseconds(100),
                 .silence = milliseconds(500),
                 .connect = milliseconds(400),
                 .first_wait = milliseconds(20),
                 .longest_wait = milliseconds(200)};
  setup.hedges.most = milliseconds(40);
  setup.hedges.burst = chance.Of(0.3) ? 0.5 : 32;
  setup.call_timeout = milliseconds(chance.Of(0.3) ? 100 : 400);
  setup.sessions_in_cluster = clustered;
  return setup;
}

}  // namespace

Cluster::Cluster(World& w) : world(w), network(w), checks(w) {
  Chance& chance = world.chance();
  const bool clustered = chance.Of(0.65);
  const auto on_commit = [this](const std::string& caller, const Transaction& transaction,
                                const Record* leader) { OnCommit(caller, transaction, leader); };
  if (clustered) {
    store = std::make_unique<StoreProcess>(world, on_commit);
    store->Start();
  }
  unsynced = !clustered && chance.Of(0.4);
  const Duration compute = milliseconds(1 + chance.Below(12));
  for (int i = 0; i < (clustered ? 2 : 1); ++i) {
    CoordinatorSetup setup = Setup(world, absl::StrCat("c", i), clustered);
    setup.compute = compute;
    setup.durability = unsynced ? Durability::kUnsynced : Durability::kSynced;
    coordinators.push_back(std::make_unique<Coordinator>(world, absl::StrCat("c", i), network, checks,
                                                         clustered ? &store->server : nullptr, on_commit,
                                                         std::move(setup)));
    if (clustered && chance.Of(0.4)) {
      world.Count(FaultKind::clock_drift);
      coordinators.back()->SetRate(0.87 + 0.02 * static_cast<double>(chance.Below(12)));
    }
  }
  const auto num_workers = 2 + chance.Below(2);
  for (int i = 0; i < num_workers; ++i) {
    workers.push_back(std::make_unique<Worker>(world, absl::StrCat("w", i), network, checks,
                                               static_cast<uint64_t>(200 + 100 * chance.Below(3))));
    Worker* worker = workers.back().get();
    worker->compute = compute;
    for (const auto& c : coordinators) {
      worker->coordinators.push_back([this, worker, c = c.get()](const NodeRecord& record,
                                                                 Worker::Joined done) {
        if (!c->up()) return;
        c->At(Way(world), [this, worker, c, record, life = worker->incarnation(), done = std::move(done)] {
          c->AskToJoin(record, [this, worker, life, done](const std::optional<ClusterRecord>& joined) {
            if (worker->incarnation() == life) worker->At(Way(world), [done, joined] { done(joined); });
          });
        });
      });
    }
  }
  std::vector<Client::Place> places;
  for (const auto& c : coordinators) places.push_back({c.get(), [c = c.get()] { return c->door(); }});
  const auto num_clients = 1 + chance.Below(3);
  for (int i = 0; i < num_clients; ++i) {
    clients.push_back(std::make_unique<Client>(world, absl::StrCat("client", i), places, 1 + chance.Below(4),
                                               4 + chance.Below(14)));
    clients.back()->may_lose = unsynced;
    clients.back()->impatient = chance.Of(0.3);
  }
  for (const auto& c : coordinators)
    world.At(Duration(chance.Below(50'000'000)), nullptr, [c = c.get()] { c->Start(); });
  for (const auto& worker : workers)
    world.At(Duration(chance.Below(50'000'000)), nullptr, [worker = worker.get()] { worker->Start(); });
  for (const auto& client : clients)
    world.At(Duration(chance.Below(1'500'000'000)), nullptr, [client = client.get()] { client->Start(); });
}

void Cluster::Kill(Process& process, bool power) {
  process.Kill(power);
  if (power) return;  // nobody says so
  for (const auto& client : clients) client->OnProcessGone(process);
}

// What is written is written by whoever leads.
void Cluster::OnCommit(const std::string& caller, const Transaction& transaction, const Record* leader) {
  const bool election = std::any_of(transaction.changes.begin(), transaction.changes.end(),
                                    [](const Change& change) { return change.key == kLeaderKey; });
  if (election) return;
  constexpr int64_t kMostPlaced = 400;
  for (const Change& change : transaction.changes) placed_ += change.key.starts_with(kRegionPrefix);
  if (placed_ > kMostPlaced) world.Fail("regions are moved without an end");
  const std::string leads = leader == nullptr ? "nobody" : ParseLeaderRecord(leader->value)->node.value;
  if (leads != caller) {
    world.Fail(absl::StrCat(caller, " writes ", transaction.changes.front().key, ", and ", leads, " leads"));
  }
}

void Cluster::Check() {
  const Coordinator* leader = nullptr;
  for (const auto& c : coordinators) {
    if (!c->LeadsByItsClock()) continue;
    if (leader != nullptr) world.Fail(absl::StrCat(leader->name, " and ", c->name, " lead by their clocks"));
    leader = c.get();
  }
}

std::string Cluster::Missing() const {
  for (const auto& client : clients) {
    if (!client->done()) return absl::StrCat(client->name, " has no whole answer");
  }
  const Coordinator* leader = nullptr;
  for (const auto& c : coordinators) {
    if (c->leads()) leader = c.get();
  }
  if (leader == nullptr || leader->cluster() == nullptr || !leader->cluster()->ready()) return "nobody leads";
  const ClusterView& view = leader->cluster()->view();
  for (const auto& worker : workers) {
    const auto found = std::find_if(view.nodes.begin(), view.nodes.end(),
                                    [&](const NodeView& node) { return node.id.value == worker->name; });
    if (found == view.nodes.end()) return absl::StrCat(worker->name, " is no node of the cluster");
    if (!found->up) return absl::StrCat(worker->name, " is not connected");
  }
  for (size_t r = 0; r < view.regions.size(); ++r) {
    const NodeId& owner = view.regions[r].record.owner;
    const auto found = std::find_if(view.nodes.begin(), view.nodes.end(),
                                    [&](const NodeView& node) { return node.id == owner; });
    if (found == view.nodes.end()) return absl::StrCat("region ", r, " has no owner");
    const auto& held = found->holdings.regions;
    if (found->self) continue;
    if (!found->up) return absl::StrCat("region ", r, "'s owner is not there");
    if (std::find(held.begin(), held.end(), RegionId(static_cast<int32_t>(r))) == held.end())
      return absl::StrCat("region ", r, "'s owner does not hold it");
  }
  return "";
}

int64_t Cluster::tokens() const {
  int64_t all = 0;
  for (const auto& client : clients) all += static_cast<int64_t>(client->have());
  return all;
}

}  // namespace omni::simulation
