// A node that serves regions: the product's HostState with a simulated machine around it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cluster/cluster_records.h"
#include "cluster/host_state.h"
#include "tests/testing/simulation/checks.h"
#include "tests/testing/simulation/network.h"

namespace omni::simulation {

class Worker : public Process, public StreamServer, private HostState::World {
 public:
  // Asks a coordinator to take the node; `done` may never come.
  using Joined = std::function<void(const std::optional<ClusterRecord>&)>;
  using Join = std::function<void(NodeRecord record, Joined done)>;

  Worker(simulation::World& world, std::string name, Network& network, Checks& checks, uint64_t offered);
  std::vector<Join> coordinators;
  Duration compute{0};       // of an expert
  double failing = 0;        // share of the answers that are errors
  double failing_fills = 0;  // share of the fills that fail at first

  // --- StreamServer, in this process
  void OnOpened(uint64_t stream) override;
  void OnFrame(uint64_t stream, std::string frame) override;
  void OnClosed(uint64_t stream, absl::Status status) override;

 private:
  void OnStart() override;
  void OnKill(bool power) override;
  void AskToJoin(size_t next, milliseconds wait);

  void Write(HostState::StreamId stream, std::string frame) override {
    network_.Write(stream, std::move(frame));
  }
  void Close(HostState::StreamId stream, absl::Status status) override {
    network_.Close(stream, std::move(status));
  }
  void Compute(RegionRequestPtr request) override;
  void Prefetch(const PrefetchFrame&) override {}
  void Hold(const AssignFrame& assign) override;
  void FlushSoon() override;
  uint64_t FreeBytes() override { return 1 << 20; }

  void Fill();
  void Tell();

  Network& network_;
  Checks& checks_;
  const uint64_t offered_;
  HostCounters counters_;
  std::unique_ptr<Mailbox> mailbox_;
  std::unique_ptr<HostState> state_;
  std::set<RegionId> on_disk_;  // survives
  int64_t heard_ = 0;           // when it was last looked

  // What the thread that fills is about.
  std::optional<AssignFrame> wanted_;
  std::set<RegionId> held_;
  uint64_t filling_ = 0;  // counts the assignments: work on an earlier one is dropped

  // Of the checks: what the node is to go by.
  std::map<uint64_t, HelloFrame> hellos_;  // by stream
  uint64_t present_ = 0;                   // the stream whose frame is being handled
  std::string joined_;                     // the id of the cluster that has taken it last
  std::string assigned_cluster_;
  uint64_t assigned_term_ = 0;
  std::optional<AssignFrame> assigned_;
};

}  // namespace omni::simulation
