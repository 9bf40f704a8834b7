#include "tests/bench/fault_cells.h"

namespace omni::bench {
namespace {

using namespace std::chrono_literals;
using testing::Network;
using Wires = testing::NetworkOptions::Wires;

absl::Status Kill(FaultCluster& c, const Turn& t) {
  c.At(t.victim).Kill();
  return absl::OkStatus();
}
absl::Status StartAgain(FaultCluster& c, const Turn& t) { return c.StartNode(t.victim); }

absl::Status BeginRecovery(FaultCluster& c, const Turn& t) {
  c.At(t.other).Kill();
  return c.StartNode(t.other);  // it listens, and holds nothing yet
}

absl::Status Stop(FaultCluster& c, const Turn& t) {
  c.At(t.victim).Stop();
  return absl::OkStatus();
}
absl::Status Continue(FaultCluster& c, const Turn& t) {
  c.At(t.victim).Continue();
  return absl::OkStatus();
}

absl::Status EndInOrder(FaultCluster& c, const Turn& t) {
  const int code = c.At(t.victim).Interrupt(30s);
  return code == 0 ? absl::OkStatus() : absl::UnknownError("a worker that was asked to end did not end well");
}

absl::Status PullOut(FaultCluster& c, const Turn& t) {
  return c.network().SetUp(FaultCluster::PlaceOf(t.victim), false);
}
absl::Status CutTo(FaultCluster& c, const Turn& t) {
  return c.network().SetLoss(FaultCluster::PlaceOf(t.victim), Network::Way::kIn, 1);
}
absl::Status CutFrom(FaultCluster& c, const Turn& t) {
  return c.network().SetLoss(FaultCluster::PlaceOf(t.victim), Network::Way::kOut, 1);
}
absl::Status HealWires(FaultCluster& c, const Turn&) { return c.network().Heal(); }

absl::Status LoseOfWorkers(FaultCluster& c, double share) {
  absl::Status s;
  for (const char* worker : FaultCluster::kWorkers) {
    for (const auto way : {Network::Way::kOut, Network::Way::kIn})
      s.Update(c.network().SetLoss(FaultCluster::PlaceOf(worker), way, share));
  }
  return s;
}
absl::Status LoseOneInAHundred(FaultCluster& c, const Turn&) { return LoseOfWorkers(c, 0.01); }
absl::Status LoseOneInFive(FaultCluster& c, const Turn&) { return LoseOfWorkers(c, 0.2); }

absl::Status DelayWorkers(FaultCluster& c, std::chrono::microseconds mean, std::chrono::microseconds jitter) {
  absl::Status s;
  for (const char* worker : FaultCluster::kWorkers) {
    for (const auto way : {Network::Way::kOut, Network::Way::kIn})
      s.Update(c.network().SetDelay(FaultCluster::PlaceOf(worker), way, mean, jitter));
  }
  return s;
}
absl::Status Delay(FaultCluster& c, const Turn&) { return DelayWorkers(c, 5ms, 2ms); }
absl::Status DelayNoMore(FaultCluster& c, const Turn&) { return DelayWorkers(c, 0ms, 0ms); }

// Killed and stopped in turn.
absl::Status StrikeEtcd(FaultCluster& c, const Turn& t) {
  const int member = t.repetition % 3;
  if (t.repetition % 2 == 0) {
    c.etcd().Kill(member);
  } else {
    c.etcd().Stop(member);
  }
  return absl::OkStatus();
}
absl::Status MendEtcd(FaultCluster& c, const Turn& t) {
  const int member = t.repetition % 3;
  if (t.repetition % 2 == 0) return c.etcd().Restart(member);
  c.etcd().Continue(member);
  return absl::OkStatus();
}

}  // namespace

const std::vector<FaultCell>& FaultCells() {
  const std::vector<std::string> silent = {"node_suspect", "node_lost"};
  static const std::vector<FaultCell> cells = {
      {.name = "worker-killed",
       .title = "a worker is killed (SIGKILL)",
       .lasts = 500ms,
       .noticed = silent,
       .strike = &Kill,
       .mend = &StartAgain,
       .next_token_bar_ms = 500},
      {.name = "worker-killed-recovering",
       .title = "a worker is killed while the other one recovers",
       .lasts = 500ms,
       .noticed = silent,
       .prepare = &BeginRecovery,
       .strike = &Kill,
       .mend = &StartAgain},
      {.name = "worker-stopped",
       .title = "a worker is stopped for 10 s (SIGSTOP, SIGCONT)",
       .lasts = 10s,
       .noticed = silent,
       .strike = &Stop,
       .mend = &Continue,
       .longest_gap_bar_ms = 250},
      {.name = "worker-restarted",
       .title = "a worker ends in order and is started again",
       .lasts = 500ms,
       .noticed = silent,
       .strike = &EndInOrder,
       .mend = &StartAgain},
      {.name = "link-down",
       .title = "a worker's wire is pulled out for 4 s",
       .lasts = 4s,
       .noticed = silent,
       .strike = &PullOut,
       .mend = &HealWires},
      {.name = "cut-to-worker",
       .title = "for 4 s nothing arrives at a worker",
       .lasts = 4s,
       .noticed = silent,
       .strike = &CutTo,
       .mend = &HealWires},
      {.name = "cut-from-worker",
       .title = "for 4 s nothing of a worker arrives",
       .lasts = 4s,
       .noticed = silent,
       .strike = &CutFrom,
       .mend = &HealWires},
      {.name = "loss-1",
       .title = "1 % of the workers' packets are lost, each way",
       .lasts = 2s,
       .strike = &LoseOneInAHundred,
       .mend = &HealWires},
      {.name = "loss-20",
       .title = "20 % of the workers' packets are lost, each way",
       .tokens = 60,
       .lasts = 3s,
       .strike = &LoseOneInFive,
       .mend = &HealWires},
      {.name = "delay",
       .title = "the workers' packets take 5 ± 2 ms, each way",
       .wires = Wires::kSwitch,
       .tokens = 60,
       .lasts = 3s,
       .strike = &Delay,
       .mend = &DelayNoMore},
      {.name = "coordinator-killed",
       .title = "the coordinator is killed and started again",
       .strike = &Kill,
       .mend = &StartAgain},
      {.name = "standby",
       .title = "the coordinator is killed beside a second one (one etcd member)",
       .coordinators = 2,
       .etcd_members = 1,
       .lasts = 3s,
       .noticed = {"coordinator_elected"},
       .strike = &Kill,
       .mend = &StartAgain,
       .next_token_bar_ms = 3000},
      {.name = "etcd-member",
       .title = "one of three etcd members is killed, or stopped, for 3 s",
       .etcd_members = 3,
       .lasts = 3s,
       .noticed = {"etcd_member_left"},
       .strike = &StrikeEtcd,
       .mend = &MendEtcd},
  };
  return cells;
}

}  // namespace omni::bench
