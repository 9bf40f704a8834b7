// A cluster of `omni node` processes on loopback for a measurement, with the answers that it gives.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "cluster/cluster_client.h"
#include "tests/testing/node_process.h"
#include "tests/testing/temp_dir.h"

namespace omni::bench {

// Silences of one kind of answer.
struct Gaps {
  std::vector<double> worst_ms;  // by answer: the longest silence
  double median_ms = 0;          // between tokens
  int different = 0;             // answers that are not the first one's
};

// null of no answers.
nlohmann::json ToJson(const Gaps& gaps);

// Ends the program where a process does not start. Its processes end with it. For one thread.
class SwarmCluster {
 public:
  SwarmCluster(std::string omni, std::string model) : omni_(std::move(omni)), model_(std::move(model)) {}

  // Every link has mutual TLS, of an authority of this cluster's own; before anything is started.
  void Secure();

  // Starts it, or again what ended: at its old address, with its old state. `more`: further arguments;
  // without an --offer-ram among them the coordinator keeps no region that another node can take.
  void Coordinator(const std::string& name, std::vector<std::string> more = {});
  // `model`: its directory, empty or to be made if it is to fill itself; none given: the cluster's.
  void Worker(const std::string& name, const std::string& coordinators, std::vector<std::string> more = {},
              const std::string& model = "");
  testing::NodeProcess& At(const std::string& name) { return *nodes_[name]; }
  // HOST:PORT.
  const std::string& AddressOf(const std::string& name) { return addresses_[name]; }

  std::unique_ptr<ClusterClient> Client(const std::vector<std::string>& coordinators);
  // Until so many workers are up, none fills or moves anything, and every region has its owner among them
  // and, with two or more of them, its shadow.
  void AwaitSpread(const std::vector<std::string>& coordinators, size_t workers);

  // Until `is_so`; ends the program if it is not within two minutes.
  void Await(const std::vector<std::string>& coordinators, const char* what,
             const std::function<bool(const ClusterReport&)>& is_so);
  // A path of its folder, which goes with it.
  std::string Path(const std::string& name) const { return dir_ / name; }

  // One answer of `tokens` to one prompt; `at_third` is done when a third of it has come.
  void Answer(const std::vector<std::string>& coordinators, int tokens, const std::function<void()>& at_third,
              Gaps& gaps);

 private:
  void Start(const std::string& name, std::vector<std::string> arguments, const std::string& model);
  std::string Certificates(const std::string& name);

  const std::string omni_, model_;
  testing::TempDir dir_;
  bool secured_ = false;
  std::map<std::string, std::string> addresses_;
  std::map<std::string, std::unique_ptr<testing::NodeProcess>> nodes_;
  std::vector<TokenId> want_;
};

}  // namespace omni::bench
