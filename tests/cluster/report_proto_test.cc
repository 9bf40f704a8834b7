#include "cluster/report_proto.h"

#include <chrono>
#include <string>

#include <gtest/gtest.h>

namespace omni {
namespace {

// Every field is another than it is made with, and than every other.
ClusterReport FullReport() {
  ClusterReport report;
  report.view.cluster = {"name", "hash", 2};
  report.view.leader = {"self"};
  report.view.term = 101;
  report.view.revision = 102;
  report.view.nodes = {
      {{"self"}, {"self:1", 103, false}, true, true, false, {}, 0},
      {{"n"}, {"n:1", 104, false}, false, true, false, {0, {}, 105, 106, 130, "disk full"}, 0, 2, "1.2.3"}};
  report.view.regions = {{{{"self"}, {"n"}, {"t"}, {"p"}}, 107}, {{{"n"}, {}, {}, {}}, 108}};
  report.peers = {{{"n"},
                   /*suspect=*/true,
                   109,
                   110,
                   111,
                   112,
                   113,
                   114,
                   std::chrono::microseconds(115),
                   std::chrono::microseconds(116)}};
  report.failovers = 117;
  report.migrations = 118;
  report.migrations_cancelled = 119;
  report.region_bytes = {120, 121};
  report.region_requests = {122, 123};
  report.hedges_sent = 124;
  report.hedges_won = 125;
  report.hedges_lost = 126;
  report.hedges_withheld = 127;
  report.rerouted = 128;
  report.refused = 129;
  return report;
}

TEST(ReportProtoTest, EveryCountArrivesAsItWasSent) {
  const ClusterReport sent = FullReport();
  cluster::v1::ClusterStatus status;
  ToProto(sent, status);
  const ClusterReport report = FromProto(status);
  EXPECT_EQ(report.failovers, 117);
  EXPECT_EQ(report.migrations, 118);
  EXPECT_EQ(report.migrations_cancelled, 119);
  EXPECT_EQ(report.region_bytes, sent.region_bytes);
  EXPECT_EQ(report.region_requests, sent.region_requests);
  EXPECT_EQ(report.hedges_sent, 124);
  EXPECT_EQ(report.hedges_won, 125);
  EXPECT_EQ(report.hedges_lost, 126);
  EXPECT_EQ(report.hedges_withheld, 127);
  EXPECT_EQ(report.rerouted, 128);
  EXPECT_EQ(report.refused, 129);
  ASSERT_EQ(report.peers.size(), 1u);
  const PeerView& peer = report.peers[0];
  EXPECT_EQ(peer.node.value, "n");
  EXPECT_TRUE(peer.suspect);
  EXPECT_EQ(peer.sent_bytes, 109);
  EXPECT_EQ(peer.received_bytes, 110);
  EXPECT_EQ(peer.requests, 111);
  EXPECT_EQ(peer.answers, 112);
  EXPECT_EQ(peer.refused, 113);
  EXPECT_EQ(peer.connections, 114);
  EXPECT_EQ(peer.rtt_p50, std::chrono::microseconds(115));
  EXPECT_EQ(peer.rtt_p99, std::chrono::microseconds(116));
}

TEST(ReportProtoTest, WhoHasWhatArrivesAsItWasSent) {
  const ClusterReport sent = FullReport();
  cluster::v1::ClusterStatus status;
  ToProto(sent, status);
  const ClusterView view = FromProto(status).view;
  EXPECT_EQ(view.cluster.name, "name");
  EXPECT_EQ(view.cluster.model_hash, "hash");
  EXPECT_EQ(view.leader.value, "self");
  EXPECT_EQ(view.term, 101u);
  EXPECT_EQ(view.revision, 102);
  ASSERT_EQ(view.nodes.size(), 2u);
  EXPECT_TRUE(view.nodes[0].self);
  EXPECT_EQ(view.nodes[1].record, sent.view.nodes[1].record);
  EXPECT_TRUE(view.nodes[1].up);
  EXPECT_EQ(view.nodes[1].holdings.filling, 105u);
  EXPECT_EQ(view.nodes[1].holdings.missing_bytes, 106u);
  EXPECT_EQ(view.nodes[1].holdings.fetched_bytes, 130u);
  EXPECT_EQ(view.nodes[1].protocol, 2u);
  EXPECT_EQ(view.nodes[1].program, "1.2.3");
  EXPECT_EQ(view.nodes[1].holdings.error, "disk full");
  ASSERT_EQ(view.regions.size(), 2u);
  EXPECT_EQ(view.regions[0].record, sent.view.regions[0].record);
  EXPECT_EQ(view.regions[1].epoch, 108u);
}

}  // namespace
}  // namespace omni
