// What befalls a cluster: faults drawn by kind, time and victim, each with its end, and an end to all of
// them.
#pragma once

#include "tests/testing/simulation/cluster.h"

namespace omni::simulation {

class Mischief {
 public:
  explicit Mischief(Cluster& cluster) : cluster_(cluster), world_(cluster.world) {}
  void Plan();
  bool over() const { return over_; }  // all is mended, and nothing more will happen

 private:
  void Do(FaultKind kind);
  void End();
  void After(Duration time, std::function<void()> f) { world_.At(time, nullptr, std::move(f)); }
  Duration Drawn(int64_t least_ms, int64_t most_ms);
  Process& AnyProcess();
  Coordinator& AnyCoordinator();
  Worker& AnyWorker();
  void KillAndRestart(Process& process, bool power, Duration down);
  void Reconnect(Process& a, Process& b);

  Cluster& cluster_;
  World& world_;
  bool over_ = false;
};

}  // namespace omni::simulation
