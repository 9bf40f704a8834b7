// The processes of a simulated cluster, drawn, and what must hold of all of them together.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/testing/simulation/client.h"
#include "tests/testing/simulation/coordinator.h"
#include "tests/testing/simulation/disk.h"
#include "tests/testing/simulation/worker.h"

namespace omni::simulation {

// The coordination store where it is a process of its own.
class StoreProcess : public Process {
 public:
  StoreProcess(World& world, StoreServer::OnCommit on_commit)
      : Process(world, "store"), server(*this, "store", std::move(on_commit)) {}
  StoreServer server;

 private:
  void OnStart() override { server.Open(); }
  void OnKill(bool power) override {
    server.Close();
    if (power) Disks::Of("store").PowerCut();
  }
};

class Cluster {
 public:
  explicit Cluster(World& world);

  void Check();  // after every event
  // What is not yet as it must be in the end; empty: all is well.
  std::string Missing() const;
  int64_t tokens() const;
  void Kill(Process& process, bool power);

  World& world;
  Network network;
  Checks checks;
  bool unsynced = false;  // the sessions' log may lose its last writes with the power
  std::unique_ptr<StoreProcess> store;
  std::vector<std::unique_ptr<Worker>> workers;
  std::vector<std::unique_ptr<Coordinator>> coordinators;  // when they go, workers that wait are told
  std::vector<std::unique_ptr<Client>> clients;

 private:
  void OnCommit(const std::string& caller, const Transaction& transaction, const Record* leader);
  int64_t placed_ = 0;  // times that a region's record was changed
};

}  // namespace omni::simulation
