#include "cluster/cluster_state.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/cluster_log.h"
#include "engine/base/simulated.h"

namespace omni {
namespace {
constexpr size_t kMostAtOnce = 100;  // records in a transaction
}

ClusterState::ClusterState(ClusterOptions options, CoordinationStore& store, ClusterCounters& counters,
                           World& world)
    : options_(std::move(options)), store_(store), counters_(counters), world_(world) {
  regions_.resize(static_cast<size_t>(options_.cluster.regions));
  // Until something has been measured, all are asked alike.
  for (Region& region : regions_) region.load = 1.0 / static_cast<double>(regions_.size());
}

ClusterState::~ClusterState() {
  *alive_ = false;
  AnswerAll(absl::UnavailableError("this coordinator leads no more"));
}

template <typename F>
auto ClusterState::Guard(F f) {
  // The store may answer when the state has gone.
  return [world = &world_, alive = alive_, f = std::move(f)](auto result) {
    world->Post([alive, f, result = std::move(result)]() mutable {
      if (*alive) f(std::move(result));
    });
  };
}

void ClusterState::Lead(uint64_t term, Clock::time_point now) {
  term_ = term;
  now_ = weighed_ = now;
  Read();
}

// --- The records

void ClusterState::Read() {
  if (reading_ || deposed_) return;
  reading_ = true;
  read_again_ = Clock::time_point::max();
  store_.Read(kClusterPrefix,
              Guard([this](absl::StatusOr<Records> records) { OnRecords(std::move(records)); }));
}

void ClusterState::OnRecords(absl::StatusOr<Records> records) {
  reading_ = false;
  if (deposed_) return;
  if (!records.ok()) {
    LogStoreUnavailable(records.status());
    read_again_ = now_ + std::chrono::milliseconds(500);
    return;
  }
  if (absl::Status s = Take(*records); !s.ok()) Depose(std::move(s));
}

absl::Status ClusterState::Take(const Records& records) {
  bool found = false, leads = false;
  std::map<NodeId, Node> nodes;
  std::vector<Region> regions = regions_;
  for (Region& region : regions) region.changed = 0;
  for (const Record& record : records.records) {
    if (record.key == kClusterKey) {
      absl::StatusOr<ClusterRecord> cluster = ParseClusterRecord(record.value);
      if (!cluster.ok()) return cluster.status();
      cluster_ = options_.cluster;
      cluster_.id = cluster->id;
      if (kClusterProtocols.Has(cluster->protocol)) cluster_.protocol = cluster->protocol;
      if (*cluster != cluster_) {
        return absl::FailedPreconditionError(
            absl::StrCat("the store is of cluster ", cluster->name, " with model ", cluster->model_hash,
                         " in ", cluster->regions, " regions and protocol ", cluster->protocol,
                         ", and this node would lead cluster ", options_.cluster.name, " with model ",
                         options_.cluster.model_hash, " in ", options_.cluster.regions,
                         " regions and protocol ", ToString(kClusterProtocols)));
      }
      found = true;
    } else if (record.key == kLoadsKey) {
      // Where there are none that can be read, all are asked alike until something is measured.
      const absl::StatusOr<LoadsRecord> loads = ParseLoadsRecord(record.value);
      if (ready_ || !loads.ok() || loads->size() != regions.size()) continue;
      for (size_t r = 0; r < regions.size(); ++r) regions[r].load = (*loads)[r];
    } else if (record.key == kLeaderKey) {
      leads = static_cast<uint64_t>(record.changed) == term_;
    } else if (record.key.starts_with(kNodePrefix)) {
      absl::StatusOr<NodeRecord> node = ParseNodeRecord(record.value);
      if (!node.ok()) return node.status();
      const NodeId id{record.key.substr(std::string_view(kNodePrefix).size())};
      const auto before = nodes_.find(id);
      Node& now = nodes[id];
      if (before != nodes_.end()) now = before->second;
      if (before == nodes_.end()) now.down_since = now_;
      now.record = *std::move(node);
      now.changed = record.changed;
    } else if (record.key.starts_with(kRegionPrefix)) {
      absl::StatusOr<RegionId> region = RegionOfKey(record.key);
      if (!region.ok()) return region.status();
      if (region->index() >= regions.size()) continue;
      absl::StatusOr<RegionRecord> value = ParseRegionRecord(record.value);
      if (!value.ok()) return value.status();
      regions[region->index()].record = *std::move(value);
      regions[region->index()].changed = record.changed;
    }
  }
  if (!leads) {
    OMNI_REACHED(kReadFoundOtherLeader);
    return absl::AbortedError(absl::StrCat("another coordinator leads since term ", term_, " ended"));
  }
  if (!found) {
    Found(regions);
    return absl::OkStatus();
  }
  const std::map<NodeId, Node> before = std::exchange(nodes_, std::move(nodes));
  regions_ = std::move(regions);
  revision_ = records.revision;
  ready_ = true;
  for (const auto& [id, node] : nodes_) {
    const auto known = before.find(id);
    const bool news = known == before.end() || known->second.record.address != node.record.address;
    if (news && id != options_.self) world_.Connect(id, node.record.address);
  }
  for (const auto& [id, node] : before) {
    if (!nodes_.contains(id)) world_.Disconnect(id);
  }
  Tell();
  Next();
  Reconcile();
  return absl::OkStatus();
}

// The cluster's first moment: this process serves everything. As many regions at a time as go into one
// transaction, and the cluster with the last of them.
void ClusterState::Found(const std::vector<Region>& regions) {
  Transaction transaction;
  transaction.conditions = {{kClusterKey, 0}, {kLeaderKey, static_cast<Revision>(term_)}};
  for (int32_t r = 0; r < options_.cluster.regions && transaction.changes.size() < kMostAtOnce; ++r) {
    if (regions[static_cast<size_t>(r)].changed != 0) continue;
    transaction.changes.push_back({RegionKey(RegionId(r)), ToJson(RegionRecord{options_.self, {}, {}, {}})});
  }
  if (transaction.changes.size() < kMostAtOnce)
    transaction.changes.push_back({kClusterKey, ToJson(options_.cluster)});
  store_.Commit(std::move(transaction), Guard([this](absl::StatusOr<Committed> committed) {
                  if (deposed_) return;
                  if (committed.ok()) return Read();
                  LogStoreUnavailable(committed.status());
                  read_again_ = now_ + std::chrono::milliseconds(500);
                }));
}

// --- Changes, one transaction at a time

void ClusterState::Enqueue(Intent intent) {
  intents_.push_back(std::move(intent));
  Next();
}

void ClusterState::Next() {
  while (ready_ && !Unsure() && !committing_ && !deposed_ && !intents_.empty()) {
    absl::StatusOr<Transaction> made = intents_.front().make();
    if (!made.ok() || made->changes.empty()) {
      const Done done = std::move(intents_.front().done);
      intents_.pop_front();
      if (done) done(made.status());
      continue;
    }
    if (!OMNI_PLANTED(kCommitWithoutLeader))
      made->conditions.push_back({kLeaderKey, static_cast<Revision>(term_)});
    committing_ = true;
    store_.Commit(*made, Guard([this, transaction = *made](absl::StatusOr<Committed> committed) {
      OnCommitted(transaction, std::move(committed));
    }));
  }
}

void ClusterState::OnCommitted(const Transaction& transaction, absl::StatusOr<Committed> committed) {
  if (deposed_) return;
  committing_ = false;
  if (!committed.ok() || !committed->applied) {
    if (absl::IsInvalidArgument(committed.status())) {  // it never will be
      const Done done = std::move(intents_.front().done);
      intents_.pop_front();
      if (done) done(committed.status());
      Next();
      return;
    }
    // Whether it was applied is not known, or somebody else has written: what stands there counts.
    if (committed.ok()) {
      OMNI_REACHED(kCommitRefused);
      counters_.refused_commits.Add(1);
    }
    if (!committed.ok()) {
      OMNI_REACHED(kCommitUnknown);
      LogStoreUnavailable(committed.status());
      read_again_ = now_ + std::chrono::milliseconds(200);
    } else {
      Read();
    }
    return;
  }
  counters_.commits.Add(1);
  Intent intent = std::move(intents_.front());
  intents_.pop_front();
  for (const RegionChange& change : intent.changes) {
    if (change.failover) OMNI_REACHED(kFailover);
    if (change.migrated) OMNI_REACHED(kMigrated);
    if (change.cancelled) OMNI_REACHED(kMigrationCancelled);
    counters_.failovers.Add(change.failover);
    counters_.migrations.Add(change.migrated);
    counters_.migrations_cancelled.Add(change.cancelled);
    LogRegionPlaced(change.region, change.to.owner.value, change.to.shadow.value, change.to.target.value,
                    change.why);
  }
  Apply(transaction, committed->revision);
  Tell();
  if (intent.done) intent.done(absl::OkStatus());
  Next();
  Reconcile();
}

void ClusterState::Apply(const Transaction& transaction, Revision revision) {
  // Loads are of no concern to the nodes: nobody is told of them.
  if (transaction.changes.front().key == kLoadsKey) return;
  revision_ = revision;
  for (const Change& change : transaction.changes) {
    if (change.key.starts_with(kRegionPrefix)) {
      const absl::StatusOr<RegionId> region = RegionOfKey(change.key);
      const absl::StatusOr<RegionRecord> record = ParseRegionRecord(*change.value);
      if (!region.ok() || !record.ok()) continue;
      regions_[region->index()].record = *record;
      regions_[region->index()].changed = revision;
    } else if (change.key.starts_with(kNodePrefix)) {
      const NodeId id{change.key.substr(std::string_view(kNodePrefix).size())};
      if (!change.value.has_value()) {
        OMNI_REACHED(kNodeForgotten);
        if (nodes_.erase(id) > 0) world_.Disconnect(id);
        continue;
      }
      const absl::StatusOr<NodeRecord> record = ParseNodeRecord(*change.value);
      if (!record.ok()) continue;
      const bool known = nodes_.contains(id);
      Node& node = nodes_[id];
      if (!known) node.down_since = now_;
      const bool moved = known && node.record.address != record->address;
      node.record = *record;
      node.changed = revision;
      if (!known || moved) world_.Connect(id, record->address);
    }
  }
}

// --- What is to be done

bool ClusterState::Gone(const Node& node) const {
  return !node.up && now_ - node.down_since >= options_.gone;
}

std::vector<PlacedNode> ClusterState::PlacedNodes() const {
  std::vector<PlacedNode> placed;
  PlacedNode self;
  self.id = options_.self;
  self.self = self.up = true;
  self.offered_bytes = options_.offered_bytes;
  self.holds.assign(regions_.size(), true);
  placed.push_back(std::move(self));
  for (const auto& [id, node] : nodes_) {
    if (id == options_.self) continue;
    PlacedNode n;
    n.id = id;
    n.up = node.up;
    n.gone = Gone(node);
    n.draining = node.record.draining;
    n.offered_bytes = node.record.offered_bytes;
    n.rtt_us = world_.RttMicros(id);
    n.holds.assign(regions_.size(), false);
    for (RegionId r : node.holdings.regions) n.holds[r.index()] = true;
    placed.push_back(std::move(n));
  }
  return placed;
}

std::vector<PlacedRegion> ClusterState::PlacedRegions() const {
  std::vector<PlacedRegion> placed;
  for (size_t r = 0; r < regions_.size(); ++r)
    placed.push_back({regions_[r].record, options_.region_bytes[r], regions_[r].load});
  return placed;
}

void ClusterState::Reconcile() {
  if (!ready_ || committing_ || Unsure() || deposed_ || !intents_.empty()) return;
  PlacementOptions options = options_.placement;
  options.rebalance = rebalance_;
  std::vector<RegionChange> changes = NextChanges(PlacedNodes(), PlacedRegions(), options);
  rebalance_ = false;
  if (changes.empty()) return;
  constexpr size_t kMost = 60;  // of a transaction
  if (changes.size() > kMost) changes.resize(kMost);
  Intent intent;
  intent.changes = changes;
  intent.make = [this, changes]() -> absl::StatusOr<Transaction> {
    Transaction transaction;
    for (const RegionChange& change : changes) {
      transaction.conditions.push_back({RegionKey(change.region), regions_[change.region.index()].changed});
      transaction.changes.push_back({RegionKey(change.region), ToJson(change.to)});
    }
    return transaction;
  };
  Enqueue(std::move(intent));
}

// Every node hears what it is to hold before any link goes by it.
void ClusterState::Tell() {
  if (revision_ > published_) {
    std::vector<std::string> sources;
    for (const auto& [id, node] : nodes_) {
      if (node.up && !node.holdings.regions.empty()) sources.push_back(node.record.address);
    }
    sources.push_back(options_.address);
    for (const auto& [id, node] : nodes_) {
      if (id == options_.self) continue;
      AssignFrame assign;
      assign.revision = static_cast<uint64_t>(revision_);
      for (const std::string& source : sources) {
        if (source != node.record.address) assign.sources.push_back(source);
      }
      for (size_t r = 0; r < regions_.size(); ++r) {
        const RegionRecord& record = regions_[r].record;
        const RegionId region(static_cast<int32_t>(r));
        const auto epoch = static_cast<uint64_t>(regions_[r].changed);
        if (record.owner == id) {
          assign.regions.push_back({region, epoch, HoldingRole::kOwner});
        } else if (record.target == id) {
          assign.regions.push_back({region, epoch, HoldingRole::kTarget});
        } else if (record.shadow == id) {
          assign.regions.push_back({region, epoch, HoldingRole::kShadow});
        }
      }
      world_.Assign(id, std::move(assign));
    }
    published_ = revision_;
    Show();
    world_.Publish(view_);
    return;
  }
  Show();
}

void ClusterState::Show() {
  view_.cluster = cluster_;
  view_.leader = options_.self;
  view_.term = term_;
  view_.revision = revision_;
  view_.nodes.clear();
  NodeView self;
  self.id = options_.self;
  self.record = {options_.address, options_.offered_bytes, false};
  self.self = self.up = true;
  self.protocol = kClusterProtocols.newest;
  self.program = options_.program;
  view_.nodes.push_back(std::move(self));
  for (const auto& [id, node] : nodes_) {
    if (id == options_.self) continue;
    view_.nodes.push_back({id, node.record, false, node.up, Gone(node), node.holdings, node.free_bytes,
                           node.protocol, node.program});
  }
  view_.regions.clear();
  for (const Region& region : regions_)
    view_.regions.push_back({region.record, static_cast<uint64_t>(region.changed)});
  world_.Changed(view_);
}

void ClusterState::Depose(absl::Status reason) {
  if (deposed_) return;
  deposed_ = true;
  AnswerAll(absl::UnavailableError(reason.message()));
  world_.Deposed(reason);
}

void ClusterState::AnswerAll(const absl::Status& status) {
  for (Intent& intent : std::exchange(intents_, {})) {
    if (intent.done) intent.done(status);
  }
}

// --- What happens

void ClusterState::OnUp(const NodeId& id, const WelcomeFrame& welcome, Clock::time_point now) {
  now_ = std::max(now_, now);
  const auto node = nodes_.find(id);
  if (node == nodes_.end()) return;
  node->second.up = true;
  node->second.protocol = welcome.protocol;
  node->second.program = welcome.program;
  Show();
  Reconcile();
}

void ClusterState::OnDown(const NodeId& id, const absl::Status&, Clock::time_point now) {
  now_ = std::max(now_, now);
  const auto node = nodes_.find(id);
  if (node == nodes_.end() || !node->second.up) return;
  node->second.up = false;
  node->second.down_since = now_;
  node->second.holdings = {};
  node->second.protocol = 0;
  node->second.program.clear();
  Show();
  Reconcile();
}

void ClusterState::OnHoldings(const NodeId& id, const HoldingsFrame& holdings) {
  const auto node = nodes_.find(id);
  if (node == nodes_.end()) return;
  node->second.holdings = holdings;
  Show();
  Reconcile();
}

void ClusterState::OnFree(const NodeId& id, uint64_t bytes) {
  const auto node = nodes_.find(id);
  if (node != nodes_.end()) node->second.free_bytes = bytes;
}

void ClusterState::OnTick(Clock::time_point now) {
  now_ = std::max(now_, now);
  if (now_ >= read_again_) Read();
  if (now_ - weighed_ >= options_.weigh) Weigh();
  Reconcile();
}

void ClusterState::Weigh() {
  weighed_ = now_;
  const std::vector<int64_t> requests = world_.RegionRequests();
  int64_t total = 0;
  // A swarm that was begun afresh counts from none.
  const auto asked = [&](size_t r) {
    return requests[r] < regions_[r].requests ? requests[r] : requests[r] - regions_[r].requests;
  };
  for (size_t r = 0; r < regions_.size() && r < requests.size(); ++r) total += asked(r);
  for (size_t r = 0; r < regions_.size() && r < requests.size(); ++r) {
    const auto share = static_cast<double>(asked(r)) / static_cast<double>(std::max<int64_t>(total, 1));
    if (total > 0) regions_[r].load = 0.75 * regions_[r].load + 0.25 * share;
    regions_[r].requests = requests[r];
  }
  asked_since_ = asked_since_ || total > 0;
  if (++weighed_times_ >= options_.record_loads && asked_since_) RecordLoads();
}

void ClusterState::RecordLoads() {
  weighed_times_ = 0;
  asked_since_ = false;
  Enqueue({[this]() -> absl::StatusOr<Transaction> {
             LoadsRecord loads;
             for (const Region& region : regions_) loads.push_back(std::clamp(region.load, 0.0, 1.0));
             Transaction transaction;
             transaction.changes.push_back({kLoadsKey, ToJson(loads)});
             return transaction;
           },
           {},
           {}});
}

// --- What people and nodes want

void ClusterState::Join(const NodeId& id, const NodeRecord& record, Done done) {
  Enqueue(
      {[this, id, record]() -> absl::StatusOr<Transaction> {
         if (id == options_.self)
           return absl::AlreadyExistsError(absl::StrCat("node ", id.value, " is the coordinator itself"));
         const auto known = nodes_.find(id);
         Transaction transaction;
         NodeRecord wanted = record;
         if (known != nodes_.end()) wanted.draining = known->second.record.draining;
         if (known != nodes_.end() && known->second.record == wanted) return transaction;
         transaction.conditions.push_back({NodeKey(id), known == nodes_.end() ? 0 : known->second.changed});
         transaction.changes.push_back({NodeKey(id), ToJson(wanted)});
         return transaction;
       },
       std::move(done),
       {}});
}

void ClusterState::Place(RegionId region, const NodeId& node, Done done) {
  Enqueue({[this, region, node]() -> absl::StatusOr<Transaction> {
             if (region.value < 0 || region.index() >= regions_.size()) {
               return absl::NotFoundError(absl::StrCat("there is no region ", region.value,
                                                       ": this cluster's are 0 to ", regions_.size() - 1));
             }
             if (!node.value.empty() && node != options_.self && !nodes_.contains(node))
               return absl::NotFoundError(absl::StrCat("there is no node ", node.value, " in this cluster"));
             const Region& now = regions_[region.index()];
             Transaction transaction;
             RegionRecord to = now.record;
             to.pinned = node;
             // A move that goes elsewhere is called off.
             if (to.target != node) to.target = {};
             if (to == now.record) return transaction;
             transaction.conditions.push_back({RegionKey(region), now.changed});
             transaction.changes.push_back({RegionKey(region), ToJson(to)});
             return transaction;
           },
           std::move(done),
           {}});
}

void ClusterState::Drain(const NodeId& id, bool undo, Done done) {
  Enqueue({[this, id, undo]() -> absl::StatusOr<Transaction> {
             const auto node = nodes_.find(id);
             if (node == nodes_.end())
               return absl::NotFoundError(
                   absl::StrCat("there is no node ", id.value, " that could be drained"));
             Transaction transaction;
             NodeRecord to = node->second.record;
             to.draining = !undo;
             if (to == node->second.record) return transaction;
             transaction.conditions.push_back({NodeKey(id), node->second.changed});
             transaction.changes.push_back({NodeKey(id), ToJson(to)});
             return transaction;
           },
           std::move(done),
           {}});
}

void ClusterState::Forget(const NodeId& id, Done done) {
  Enqueue({[this, id]() -> absl::StatusOr<Transaction> {
             if (id == options_.self) {
               return absl::FailedPreconditionError(
                   absl::StrCat("node ", id.value, " is the coordinator itself"));
             }
             const auto node = nodes_.find(id);
             if (node == nodes_.end())
               return absl::NotFoundError(absl::StrCat("there is no node ", id.value, " in this cluster"));
             if (node->second.up) {
               return absl::FailedPreconditionError(
                   absl::StrCat("node ", id.value,
                                " is connected; stop it first, after draining it if it is to go for good"));
             }
             Transaction transaction;
             transaction.conditions.push_back({NodeKey(id), node->second.changed});
             transaction.changes.push_back({NodeKey(id), std::nullopt});
             for (size_t r = 0; r < regions_.size(); ++r) {
               const Region& region = regions_[r];
               if (region.record.owner == id) {
                 return absl::FailedPreconditionError(absl::StrCat(
                     "node ", id.value, " still owns region ", r,
                     "; others take its regions over when it has been away for a while: ask again then"));
               }
               if (region.record.pinned != id || transaction.changes.size() >= kMostAtOnce) continue;
               RegionRecord to = region.record;
               to.pinned = {};
               const RegionId number(static_cast<int32_t>(r));
               transaction.conditions.push_back({RegionKey(number), region.changed});
               transaction.changes.push_back({RegionKey(number), ToJson(to)});
             }
             return transaction;
           },
           std::move(done),
           {}});
}

void ClusterState::Rebalance(std::function<void(absl::StatusOr<int>)> done) {
  if (!ready_ || deposed_) {
    done(absl::UnavailableError("this coordinator has not read its cluster's records yet"));
    return;
  }
  PlacementOptions options = options_.placement;
  options.rebalance = true;
  const auto moves = NextChanges(PlacedNodes(), PlacedRegions(), options).size();
  rebalance_ = true;
  Reconcile();
  done(static_cast<int>(moves));
}

}  // namespace omni
