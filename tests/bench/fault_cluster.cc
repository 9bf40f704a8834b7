#include "tests/bench/fault_cluster.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/time/time.h>
#include <nlohmann/json.hpp>

#include "cluster/certificates.h"

namespace omni::bench {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int kClient = 0, kFirstEtcd = 5;
constexpr const char* kPlaces[] = {"client", "a", "b", "w1", "w2"};

// Which network namespace a process is in; 0: it cannot be told.
ino_t NamespaceOfProcess(const std::string& pid) {
  struct stat s;
  return ::stat(absl::StrCat("/proc/", pid, "/ns/net").c_str(), &s) == 0 ? s.st_ino : 0;
}

std::string WhatIsNotSettled(const ClusterReport& report) {
  std::set<std::string> well;
  for (const NodeView& node : report.view.nodes) {
    if (node.up && !node.self && node.holdings.filling == 0) well.insert(node.id.value);
  }
  for (const PeerView& peer : report.peers) {
    if (peer.suspect) well.erase(peer.node.value);
  }
  for (const char* worker : FaultCluster::kWorkers) {
    if (!well.contains(worker))
      return absl::StrCat("node ", worker, " is not up, or in doubt, or still fills");
  }
  for (size_t r = 0; r < report.view.regions.size(); ++r) {
    const RegionRecord& record = report.view.regions[r].record;
    if (!record.target.value.empty())
      return absl::StrCat("region ", r, " still moves to ", record.target.value);
    if (!well.contains(record.owner.value))
      return absl::StrCat("region ", r, " belongs to ", record.owner.value);
    if (!well.contains(record.shadow.value)) return absl::StrCat("region ", r, " has no shadow");
  }
  return "";
}

}  // namespace

int FaultCluster::PlaceOf(const std::string& name) {
  return static_cast<int>(std::find(std::begin(kPlaces), std::end(kPlaces), name) - std::begin(kPlaces));
}

std::string FaultCluster::AddressOf(const std::string& name) const {
  return network_->AddressOf(PlaceOf(name)) + ":7300";
}

std::vector<std::string> FaultCluster::Coordinators() const {
  std::vector<std::string> addresses = {AddressOf("a")};
  if (options_.coordinators > 1) addresses.push_back(AddressOf("b"));
  return addresses;
}

absl::StatusOr<std::unique_ptr<FaultCluster>> FaultCluster::Start(FaultClusterOptions options) {
  std::unique_ptr<FaultCluster> cluster(new FaultCluster(std::move(options)));
  if (absl::Status s = cluster->Begin(); !s.ok()) return s;
  return cluster;
}

absl::Status FaultCluster::Begin() {
  auto network =
      testing::Network::Make({.nodes = kFirstEtcd + options_.etcd_members, .wires = options_.wires});
  if (!network.ok()) return network.status();
  network_ = *std::move(network);
  if (absl::Status s = network_->Enter(kClient); !s.ok()) return s;
  if (absl::Status s = MakeAuthority(dir_ / "authority"); !s.ok()) return s;
  for (const char* name : kPlaces) {
    absl::Status s = MakeNodeCertificate(dir_ / "authority", name, {network_->AddressOf(PlaceOf(name))},
                                         dir_ / absl::StrCat(name, "-cert"));
    if (!s.ok()) return s;
  }
  if (options_.etcd_members > 0) {
    testing::EtcdClusterOptions with;
    with.members = options_.etcd_members;
    for (int i = 0; i < options_.etcd_members; ++i)
      with.hosts.push_back({network_->AddressOf(kFirstEtcd + i), network_->NamespaceOf(kFirstEtcd + i)});
    auto etcd = testing::EtcdCluster::Start(std::move(with));
    if (!etcd.ok()) return etcd.status();
    etcd_ = *std::move(etcd);
  }
  std::vector<std::string> names = {"a"};
  if (options_.coordinators > 1) names.push_back("b");
  names.insert(names.end(), std::begin(kWorkers), std::end(kWorkers));
  for (const std::string& name : names) {
    if (absl::Status s = StartNode(name); !s.ok()) return s;
  }
  return AwaitSettled();
}

absl::Status FaultCluster::StartNode(const std::string& name) {
  std::vector<std::string> arguments = {"-m",
                                        options_.model,
                                        "--name",
                                        name,
                                        "--listen",
                                        AddressOf(name),
                                        "--threads",
                                        "1",
                                        "--certificates",
                                        dir_ / absl::StrCat(name, "-cert"),
                                        "--log",
                                        "json",
                                        "--log-level",
                                        "info"};
  if (name == "a" || name == "b") {
    arguments.insert(arguments.end(), {"--offer-ram", "1", "--state", dir_ / name});
    if (etcd_ != nullptr)
      arguments.insert(arguments.end(),
                       {"--etcd", absl::StrJoin(etcd_->endpoints(), ","), "--durable", "cluster"});
  } else {
    arguments.insert(arguments.end(), {"--join", absl::StrJoin(Coordinators(), ",")});
  }
  auto& node = nodes_[name];
  node = nullptr;
  node = std::make_unique<testing::NodeProcess>(options_.omni, std::move(arguments), dir_ / (name + ".log"),
                                                network_->NamespaceOf(PlaceOf(name)));
  if (!node->WaitForAddress().empty()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("node ", name, " does not start: ", node->Log()));
}

std::unique_ptr<ClusterClient> FaultCluster::Client() const {
  auto client = ClusterClient::Make({.addresses = Coordinators(),
                                     .certificates = dir_ / "client-cert",
                                     .patience = std::chrono::seconds(60)});
  return client.ok() ? *std::move(client) : nullptr;  // the folder was made above
}

absl::Status FaultCluster::AwaitSettled(std::chrono::seconds limit) const {
  const auto client = Client();
  const auto until = Clock::now() + limit;
  std::string missing = "nobody coordinates";
  while (Clock::now() < until) {
    const auto report = client->Status();
    missing = report.ok() ? WhatIsNotSettled(*report) : std::string(report.status().message());
    if (missing.empty()) return absl::OkStatus();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return absl::DeadlineExceededError(absl::StrCat("after ", limit.count(), " s: ", missing));
}

absl::StatusOr<std::string> FaultCluster::Leader() const {
  const auto report = Client()->Status();
  if (!report.ok()) return report.status();
  return report->view.leader.value;
}

double FaultCluster::MillisUntil(const std::string& name, const std::vector<std::string>& events,
                                 std::chrono::system_clock::time_point since) const {
  std::istringstream lines(nodes_.at(name)->Log());
  // The log's time stamps are cut off to milliseconds.
  const auto from = std::chrono::floor<std::chrono::milliseconds>(since);
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json entry = nlohmann::json::parse(line, nullptr, false);
    if (!entry.is_object() || !entry.contains("ts") || !entry.contains("event")) continue;
    if (std::find(events.begin(), events.end(), entry["event"]) == events.end()) continue;
    absl::Time at;
    if (!absl::ParseTime(absl::RFC3339_full, entry["ts"].get<std::string>(), &at, nullptr)) continue;
    if (absl::ToChronoTime(at) < from) continue;
    return std::max(0.0, std::chrono::duration<double, std::milli>(absl::ToChronoTime(at) - since).count());
  }
  return -1;
}

std::vector<std::string> FaultCluster::EndedUnasked() {
  std::vector<std::string> ended;
  for (const auto& [name, node] : nodes_) {
    if (!node->running()) ended.push_back(name);
  }
  return ended;
}

int FaultCluster::End() {
  int bad = 0;
  for (const auto& [name, node] : nodes_) bad += node->Interrupt(std::chrono::seconds(30)) != 0;
  etcd_ = nullptr;
  std::set<ino_t> inside;
  for (const auto& [name, node] : nodes_) {
    struct stat s;
    if (::fstat(network_->NamespaceOf(PlaceOf(name)), &s) == 0) inside.insert(s.st_ino);
  }
  for (const auto& process : fs::directory_iterator("/proc"))
    bad += static_cast<int>(inside.count(NamespaceOfProcess(process.path().filename().string())));
  return bad;
}

std::string FaultCluster::Logs() const {
  std::string logs;
  for (const auto& [name, node] : nodes_) absl::StrAppend(&logs, "--- ", name, "\n", node->Log());
  return logs;
}

}  // namespace omni::bench
