#include "tests/testing/network.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "tests/testing/namespaces.h"
#include "tests/testing/packet_switch.h"

namespace omni::testing {
namespace {

// A veth pair for each node, whose far ends are ports of a bridge. Packets are dropped as they come in: those
// that a node sends at its port, those that it receives at its eth0, so that no sender notices.
class BridgedNetwork final : public Network {
 public:
  absl::Status SetLoss(int node, Way way, double share) override {
    const bool out = way == Way::kOut;
    const std::string device = out ? absl::StrCat("port", node) : "eth0";
    const int where = out ? hub() : NamespaceOf(node);
    std::string rule;
    if (share >= 1) {
      rule = "drop";
    } else if (share > 0) {
      rule = absl::StrFormat("numgen random mod 1000000 < %d drop", static_cast<int>(share * 1e6));
    }
    return RunInNamespace(
        where, {"nft", absl::StrFormat(
                           "table netdev %s { chain c { type filter hook "
                           "ingress device %s priority 0; }; }; flush chain "
                           "netdev %s c; %s",
                           device, device, device,
                           rule.empty() ? "" : absl::StrFormat("add rule netdev %s c %s", device, rule))});
  }
  absl::Status SetUp(int node, bool up) override {
    return RunInNamespace(hub(), {"ip", "link", "set", absl::StrCat("port", node), up ? "up" : "down"});
  }
  absl::Status SetDelay(int, Way, std::chrono::microseconds, std::chrono::microseconds) override {
    return absl::UnimplementedError("a bridge delays nothing; use Wires::kSwitch");
  }

 private:
  absl::Status Wire() override {
    absl::Status s = RunInNamespace(hub(), {"ip", "link", "add", "bridge", "type", "bridge"});
    if (s.ok()) s = RunInNamespace(hub(), {"ip", "link", "set", "bridge", "up"});
    for (int node = 0; s.ok() && node < nodes(); ++node) {
      const std::string port = absl::StrCat("port", node);
      const std::string far = absl::StrCat("/proc/", ::getpid(), "/fd/", NamespaceOf(node));
      s = RunInNamespace(hub(),
                         {"ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", far});
      if (s.ok()) s = RunInNamespace(hub(), {"ip", "link", "set", port, "master", "bridge", "up"});
    }
    return s;
  }
};

class SwitchedNetwork final : public Network {
 public:
  explicit SwitchedNetwork(uint64_t seed) : seed_(seed) {}

  absl::Status SetLoss(int node, Way way, double share) override {
    switch_->SetLoss(node, way == Way::kOut, share);
    return absl::OkStatus();
  }
  absl::Status SetUp(int node, bool up) override {
    switch_->SetUp(node, up);
    return absl::OkStatus();
  }
  absl::Status SetDelay(int node, Way way, std::chrono::microseconds mean,
                        std::chrono::microseconds jitter) override {
    switch_->SetDelay(node, way == Way::kOut, mean, jitter);
    return absl::OkStatus();
  }

 private:
  absl::Status Wire() override {
    std::vector<int> devices;
    for (int node = 0; node < nodes(); ++node) {
      const absl::StatusOr<int> device = OpenTap(NamespaceOf(node), "eth0");
      if (!device.ok()) {
        for (const int d : devices) ::close(d);
        return device.status();
      }
      devices.push_back(*device);
    }
    switch_ = std::make_unique<PacketSwitch>(std::move(devices), seed_);
    return absl::OkStatus();
  }

  const uint64_t seed_;
  std::unique_ptr<PacketSwitch> switch_;
};

}  // namespace

std::string Network::WhyNot() {
  if (::geteuid() != 0) return "network namespaces need root";
  if (FindProgram("ip").empty()) return "the program ip is not installed (apt-get install iproute2)";
  if (FindProgram("nft").empty()) return "the program nft is not installed (apt-get install nftables)";
  if (::access("/dev/net/tun", R_OK | W_OK) != 0) return "/dev/net/tun cannot be used";
  // The rest is found out by doing it: a container may forbid any of it, a kernel lack it.
  for (const auto wires : {NetworkOptions::Wires::kBridge, NetworkOptions::Wires::kSwitch}) {
    const auto network = Make({.nodes = 1, .wires = wires});
    if (!network.ok()) return std::string(network.status().message());
    const absl::Status lossy = (*network)->SetLoss(0, Way::kIn, 0.5);
    if (!lossy.ok()) return std::string(lossy.message());
  }
  return "";
}

absl::StatusOr<std::unique_ptr<Network>> Network::Make(const NetworkOptions& options) {
  std::unique_ptr<Network> network;
  if (options.wires == NetworkOptions::Wires::kBridge) {
    network = std::make_unique<BridgedNetwork>();
  } else {
    network = std::make_unique<SwitchedNetwork>(options.seed);
  }
  absl::Status s = network->MakeNamespaces(options.nodes + 1);
  if (s.ok()) s = network->Wire();
  for (int node = 0; s.ok() && node < options.nodes; ++node) {
    const int where = network->NamespaceOf(node);
    s = RunInNamespace(where, {"ip", "address", "add", network->AddressOf(node) + "/24", "dev", "eth0"});
    if (s.ok()) s = RunInNamespace(where, {"ip", "link", "set", "lo", "up"});
    if (s.ok()) s = RunInNamespace(where, {"ip", "link", "set", "eth0", "up"});
  }
  if (!s.ok()) return s;
  return network;
}

Network::~Network() {
  for (const int n : namespaces_) ::close(n);
}

absl::Status Network::MakeNamespaces(int count) {
  for (int i = 0; i < count; ++i) {
    const absl::StatusOr<int> made = MakeNetworkNamespace();
    if (!made.ok()) return made.status();
    namespaces_.push_back(*made);
  }
  return absl::OkStatus();
}

std::string Network::AddressOf(int node) const { return absl::StrCat("10.0.0.", node + 1); }

absl::Status Network::Enter(int node) const {
  if (::setns(NamespaceOf(node), CLONE_NEWNET) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "cannot enter a network namespace");
}

absl::Status Network::Heal() {
  absl::Status result;
  for (int node = 0; node < nodes(); ++node) {
    result.Update(SetUp(node, true));
    for (const Way way : {Way::kOut, Way::kIn}) result.Update(SetLoss(node, way, 0));
  }
  return result;
}

}  // namespace omni::testing
