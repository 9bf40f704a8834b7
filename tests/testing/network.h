// A private network for processes of a test: network namespaces of this machine, joined by wires that lose,
// delay and break as the test says. Nothing of it has a name or reaches outside, and it all goes when its
// last user has ended, however that ends: the namespaces are held by nothing but open files.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace omni::testing {

struct NetworkOptions {
  enum class Wires {
    kBridge,  // veth pairs and the kernel's bridge: as fast as this machine; loss by nftables
    kSwitch,  // TAP devices and a thread of this process, which can delay too
  };
  int nodes = 2;
  Wires wires = Wires::kBridge;
  uint64_t seed = 1;  // of the switch's jitter and loss
};

// Calls from one thread at a time.
class Network {
 public:
  enum class Way { kOut, kIn };  // what a node sends, what it receives

  // Why there can be none here; empty: there can.
  static std::string WhyNot();
  static absl::StatusOr<std::unique_ptr<Network>> Make(const NetworkOptions& options);
  virtual ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  std::string AddressOf(int node) const;
  // An open file, closed by exec, for setns(2).
  int NamespaceOf(int node) const { return namespaces_[static_cast<size_t>(node)]; }
  // Of the calling thread and the threads that it starts from then on.
  absl::Status Enter(int node) const;

  // The share of packets that are lost, each by itself; 1: none arrives, and nobody is told.
  virtual absl::Status SetLoss(int node, Way way, double share) = 0;
  // A wire that is not up is one that has been pulled out.
  virtual absl::Status SetUp(int node, bool up) = 0;
  // Each packet takes mean +- jitter, evenly spread. Unimplemented: the wires are a bridge's.
  virtual absl::Status SetDelay(int node, Way way, std::chrono::microseconds mean,
                                std::chrono::microseconds jitter) = 0;
  absl::Status Heal();  // nothing is lost, all are up

 protected:
  Network() = default;
  // Where the wires meet: a namespace of its own, after those of the nodes.
  int hub() const { return namespaces_.back(); }
  int nodes() const { return static_cast<int>(namespaces_.size()) - 1; }
  virtual absl::Status Wire() = 0;  // eth0 of each node

 private:
  absl::Status MakeNamespaces(int count);

  std::vector<int> namespaces_;
};

}  // namespace omni::testing
