// A cluster of `omni node` processes in network namespaces, with mutual TLS, on which faults are tried: two
// workers that have all regions between them, each region with owner and shadow, and one coordinator or two.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "cluster/cluster_client.h"
#include "tests/testing/etcd.h"
#include "tests/testing/network.h"
#include "tests/testing/node_process.h"
#include "tests/testing/temp_dir.h"

namespace omni::bench {

struct FaultClusterOptions {
  std::string omni, model;
  testing::NetworkOptions::Wires wires = testing::NetworkOptions::Wires::kBridge;
  int coordinators = 1;  // "a", "b"
  int etcd_members = 0;  // 0: the coordinator's own store
};

// For one thread, whose namespace is from then on the client's, and which has started no thread before.
// Processes end with it.
class FaultCluster {
 public:
  // Returns when the regions have spread.
  static absl::StatusOr<std::unique_ptr<FaultCluster>> Start(FaultClusterOptions options);

  static constexpr const char* kWorkers[] = {"w1", "w2"};
  testing::NodeProcess& At(const std::string& name) { return *nodes_.at(name); }
  absl::Status StartNode(const std::string& name);  // again, at its address and with its state
  testing::Network& network() { return *network_; }
  static int PlaceOf(const std::string& name);  // in the network
  testing::EtcdCluster& etcd() { return *etcd_; }

  std::unique_ptr<ClusterClient> Client() const;
  // Until both workers are up and not suspect, nothing moves, and every region has an owner and a shadow
  // among them. An error says what is not so.
  absl::Status AwaitSettled(std::chrono::seconds limit = std::chrono::seconds(60)) const;
  absl::StatusOr<std::string> Leader() const;
  // How long after `since` somebody first logged one of these events; less than 0: nobody has.
  double MillisUntil(const std::string& name, const std::vector<std::string>& events,
                     std::chrono::system_clock::time_point since) const;
  std::vector<std::string> EndedUnasked();  // the nodes that run no more
  // Asks all to end. How many did not end well, and how many processes are left in the network after that.
  int End();
  std::string Logs() const;

 private:
  explicit FaultCluster(FaultClusterOptions options) : options_(std::move(options)) {}
  absl::Status Begin();
  std::string AddressOf(const std::string& name) const;
  std::vector<std::string> Coordinators() const;

  const FaultClusterOptions options_;
  testing::TempDir dir_ = testing::TempDir::InMemory();
  std::unique_ptr<testing::Network> network_;
  std::unique_ptr<testing::EtcdCluster> etcd_;
  std::map<std::string, std::unique_ptr<testing::NodeProcess>> nodes_;
};

}  // namespace omni::bench
