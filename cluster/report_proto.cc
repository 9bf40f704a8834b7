#include "cluster/report_proto.h"

namespace omni {

namespace pb = ::omni::cluster::v1;

void ToProto(const ClusterReport& report, pb::ClusterStatus& status) {
  const ClusterView& view = report.view;
  status.set_cluster(view.cluster.name);
  status.set_model_hash(view.cluster.model_hash);
  status.set_coordinator(view.leader.value);
  status.set_term(view.term);
  status.set_revision(static_cast<uint64_t>(view.revision));
  for (const NodeView& node : view.nodes) {
    pb::NodeStatus& n = *status.add_nodes();
    n.set_node(node.id.value);
    n.set_address(node.record.address);
    n.set_offered_bytes(node.record.offered_bytes);
    n.set_filling(node.holdings.filling);
    n.set_missing_bytes(node.holdings.missing_bytes);
    n.set_error(node.holdings.error);
    n.set_fetched_bytes(node.holdings.fetched_bytes);
    n.set_protocol(node.protocol);
    n.set_program(node.program);
    n.set_state(node.up ? pb::NodeStatus::UP : pb::NodeStatus::DOWN);
    bool owns = false;
    for (const RegionView& region : view.regions) {
      owns = owns || region.record.owner == node.id || region.record.target == node.id ||
             region.record.shadow == node.id;
    }
    if (node.up && node.record.draining)
      n.set_state(owns ? pb::NodeStatus::DRAINING : pb::NodeStatus::DRAINED);
    for (const PeerView& peer : report.peers) {
      if (peer.node != node.id) continue;
      if (node.up && peer.suspect) n.set_state(pb::NodeStatus::SUSPECT);
      n.set_sent_bytes(static_cast<uint64_t>(peer.sent_bytes));
      n.set_received_bytes(static_cast<uint64_t>(peer.received_bytes));
      n.set_requests(static_cast<uint64_t>(peer.requests));
      n.set_answers(static_cast<uint64_t>(peer.answers));
      n.set_refused(static_cast<uint64_t>(peer.refused));
      n.set_connections(static_cast<uint64_t>(peer.connections));
      n.set_rtt_p50_us(static_cast<double>(peer.rtt_p50.count()) / 1e3);
      n.set_rtt_p99_us(static_cast<double>(peer.rtt_p99.count()) / 1e3);
    }
  }
  for (size_t r = 0; r < view.regions.size(); ++r) {
    const RegionRecord& record = view.regions[r].record;
    pb::RegionStatus& out = *status.add_regions();
    out.set_region(static_cast<uint32_t>(r));
    out.set_epoch(view.regions[r].epoch);
    out.set_owner(record.owner.value);
    out.set_shadow(record.shadow.value);
    out.set_target(record.target.value);
    out.set_pinned(record.pinned.value);
    if (r < report.region_bytes.size()) out.set_bytes(report.region_bytes[r]);
    if (r < report.region_requests.size()) out.set_requests(static_cast<uint64_t>(report.region_requests[r]));
  }
  pb::Counters& c = *status.mutable_counters();
  c.set_failovers(static_cast<uint64_t>(report.failovers));
  c.set_migrations(static_cast<uint64_t>(report.migrations));
  c.set_migrations_cancelled(static_cast<uint64_t>(report.migrations_cancelled));
  c.set_hedges_sent(static_cast<uint64_t>(report.hedges_sent));
  c.set_hedges_won(static_cast<uint64_t>(report.hedges_won));
  c.set_hedges_lost(static_cast<uint64_t>(report.hedges_lost));
  c.set_hedges_withheld(static_cast<uint64_t>(report.hedges_withheld));
  c.set_rerouted(static_cast<uint64_t>(report.rerouted));
  c.set_refused_epochs(static_cast<uint64_t>(report.refused));
}

ClusterReport FromProto(const pb::ClusterStatus& status) {
  ClusterReport report;
  ClusterView& view = report.view;
  view.cluster.name = status.cluster();
  view.cluster.model_hash = status.model_hash();
  view.cluster.regions = status.regions_size();
  view.leader = {status.coordinator()};
  view.term = status.term();
  view.revision = static_cast<Revision>(status.revision());
  for (const pb::NodeStatus& n : status.nodes()) {
    NodeView node;
    node.id = {n.node()};
    node.record = {n.address(), n.offered_bytes(),
                   n.state() == pb::NodeStatus::DRAINING || n.state() == pb::NodeStatus::DRAINED};
    node.self = n.node() == status.coordinator();
    node.up = n.state() != pb::NodeStatus::DOWN;
    node.holdings.filling = n.filling();
    node.holdings.missing_bytes = n.missing_bytes();
    node.holdings.error = n.error();
    node.holdings.fetched_bytes = n.fetched_bytes();
    node.protocol = n.protocol();
    node.program = n.program();
    view.nodes.push_back(std::move(node));
    if (n.node() == status.coordinator()) continue;
    PeerView peer;
    peer.node = {n.node()};
    peer.suspect = n.state() == pb::NodeStatus::SUSPECT;
    peer.sent_bytes = static_cast<int64_t>(n.sent_bytes());
    peer.received_bytes = static_cast<int64_t>(n.received_bytes());
    peer.requests = static_cast<int64_t>(n.requests());
    peer.answers = static_cast<int64_t>(n.answers());
    peer.refused = static_cast<int64_t>(n.refused());
    peer.connections = static_cast<int64_t>(n.connections());
    peer.rtt_p50 = std::chrono::nanoseconds(static_cast<int64_t>(n.rtt_p50_us() * 1e3));
    peer.rtt_p99 = std::chrono::nanoseconds(static_cast<int64_t>(n.rtt_p99_us() * 1e3));
    report.peers.push_back(std::move(peer));
  }
  for (const pb::RegionStatus& r : status.regions()) {
    view.regions.push_back({{{r.owner()}, {r.shadow()}, {r.target()}, {r.pinned()}}, r.epoch()});
    report.region_bytes.push_back(r.bytes());
    report.region_requests.push_back(static_cast<int64_t>(r.requests()));
  }
  const pb::Counters& c = status.counters();
  report.failovers = static_cast<int64_t>(c.failovers());
  report.migrations = static_cast<int64_t>(c.migrations());
  report.migrations_cancelled = static_cast<int64_t>(c.migrations_cancelled());
  report.hedges_sent = static_cast<int64_t>(c.hedges_sent());
  report.hedges_won = static_cast<int64_t>(c.hedges_won());
  report.hedges_lost = static_cast<int64_t>(c.hedges_lost());
  report.hedges_withheld = static_cast<int64_t>(c.hedges_withheld());
  report.rerouted = static_cast<int64_t>(c.rerouted());
  report.refused = static_cast<int64_t>(c.refused_epochs());
  return report;
}

}  // namespace omni
