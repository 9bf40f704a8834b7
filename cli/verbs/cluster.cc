#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_split.h>
#include <nlohmann/json.hpp>

#include "cli/cluster_flags.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cluster/certificates.h"
#include "engine/base/interrupt.h"
#include "engine/base/json.h"

namespace omni::cli {
namespace {

struct ClusterArgs {
  std::string action, first, second, node, hosts, out;
  ClusterFlags flags;
  std::chrono::milliseconds wait{0};
  bool json = false, undo = false;
  GivenFlags of_drain, of_cert;
};

const PeerView* FindPeer(const ClusterReport& report, const NodeId& node) {
  for (const PeerView& peer : report.peers) {
    if (peer.node == node) return &peer;
  }
  return nullptr;
}

std::string StateOf(const NodeView& node, const PeerView* peer) {
  if (!node.up) return "down";
  if (peer != nullptr && peer->suspect) return "suspect";
  return node.record.draining ? "draining" : "up";
}

double Micros(std::chrono::nanoseconds t) { return static_cast<double>(t.count()) / 1e3; }

nlohmann::json ToJsonObject(const ClusterReport& report) {
  const ClusterView& view = report.view;
  nlohmann::json nodes = nlohmann::json::array(), regions = nlohmann::json::array();
  for (const NodeView& node : view.nodes) {
    const PeerView* peer = FindPeer(report, node.id);
    nlohmann::json n = {{"node", node.id.value},
                        {"address", node.record.address},
                        {"state", StateOf(node, peer)},
                        {"coordinator", node.self},
                        {"offered_bytes", node.record.offered_bytes},
                        {"filling", node.holdings.filling},
                        {"missing_bytes", node.holdings.missing_bytes},
                        {"protocol", node.protocol},
                        {"program", node.program}};
    if (!node.holdings.error.empty()) n["error"] = node.holdings.error;
    if (peer != nullptr) {
      n["sent_bytes"] = peer->sent_bytes;
      n["received_bytes"] = peer->received_bytes;
      n["requests"] = peer->requests;
      n["answers"] = peer->answers;
      n["refused"] = peer->refused;
      n["connections"] = peer->connections;
      n["rtt_p50_us"] = Micros(peer->rtt_p50);
      n["rtt_p99_us"] = Micros(peer->rtt_p99);
    }
    nodes.push_back(std::move(n));
  }
  for (size_t r = 0; r < view.regions.size(); ++r) {
    const RegionRecord& record = view.regions[r].record;
    regions.push_back({{"region", r},
                       {"epoch", view.regions[r].epoch},
                       {"owner", record.owner.value},
                       {"shadow", record.shadow.value},
                       {"target", record.target.value},
                       {"pinned", record.pinned.value},
                       {"bytes", r < report.region_bytes.size() ? report.region_bytes[r] : 0},
                       {"requests", r < report.region_requests.size() ? report.region_requests[r] : 0}});
  }
  return {{"cluster", view.cluster.name},
          {"model_hash", view.cluster.model_hash},
          {"coordinator", view.leader.value},
          {"term", view.term},
          {"revision", view.revision},
          {"nodes", nodes},
          {"regions", regions},
          {"counters",
           {{"failovers", report.failovers},
            {"rerouted", report.rerouted},
            {"hedges_sent", report.hedges_sent},
            {"hedges_won", report.hedges_won},
            {"hedges_lost", report.hedges_lost},
            {"hedges_withheld", report.hedges_withheld},
            {"migrations", report.migrations},
            {"migrations_cancelled", report.migrations_cancelled},
            {"refused_epochs", report.refused}}}};
}

void PrintTable(const ClusterReport& report) {
  const ClusterView& view = report.view;
  PrintF("cluster %s · model %s · coordinator %s, term %d\n\n", view.cluster.name,
         view.cluster.model_hash.substr(0, 8), view.leader.value, view.term);
  PrintF("%-24s %-9s %-9s %9s  %-20s %-20s %s\n", "node", "state", "version", "offers", "owns", "shadows",
         "round trip");
  for (const NodeView& node : view.nodes) {
    const PeerView* peer = FindPeer(report, node.id);
    std::string owns, shadows;
    for (size_t r = 0; r < view.regions.size(); ++r) {
      const RegionRecord& record = view.regions[r].record;
      if (record.owner == node.id) absl::StrAppend(&owns, owns.empty() ? "" : " ", r);
      if (record.shadow == node.id) absl::StrAppend(&shadows, shadows.empty() ? "" : " ", r);
      if (record.target == node.id) absl::StrAppend(&owns, owns.empty() ? "" : " ", "<-", r);
    }
    const std::string rtt =
        peer == nullptr || peer->rtt_p50.count() == 0
            ? (node.self ? "here" : "-")
            : absl::StrFormat("%.0f us, p99 %.0f", Micros(peer->rtt_p50), Micros(peer->rtt_p99));
    PrintF("%-24s %-9s %-9s %9s  %-20s %-20s %s\n", node.id.value, StateOf(node, peer),
           node.program.empty() ? "-" : node.program,
           HumanBytes(static_cast<int64_t>(node.record.offered_bytes)), owns.empty() ? "-" : owns,
           shadows.empty() ? "-" : shadows, rtt);
    if (node.holdings.filling > 0) {
      PrintF("%-24s   %d regions to come, %s missing\n", "", node.holdings.filling,
             HumanBytes(static_cast<int64_t>(node.holdings.missing_bytes)));
    }
    if (!node.holdings.error.empty()) PrintF("%-24s   %s\n", "", node.holdings.error);
  }
  PrintF("\nmigrations %d · failovers %d · hedges %d, won %d\n", report.migrations, report.failovers,
         report.hedges_sent, report.hedges_won);
}

void Show(const ClusterReport& report, bool json) {
  if (json) {
    PrintF("%s\n", JsonText(ToJsonObject(report)));
  } else {
    PrintTable(report);
  }
  FlushOutput();
}

absl::StatusOr<int> Watch(ClusterClient& client, bool json) {
  const InterruptGuard interrupt;
  std::stop_source stop;
  const absl::Status status = client.Watch(
      [&](const ClusterReport& report) {
        Show(report, json);
        return !InterruptGuard::Requested();
      },
      stop.get_token());
  if (!status.ok() && !InterruptGuard::Requested()) return status;
  return InterruptGuard::Requested() ? kExitInterrupted : kExitOk;
}

// Until the node owns no region and none moves there.
absl::Status WaitUntilDrained(ClusterClient& client, const NodeId& node, std::chrono::milliseconds most) {
  const InterruptGuard interrupt;
  std::stop_source stop;
  std::mutex mutex;
  std::condition_variable_any changed;
  bool drained = false, ended = false;
  int owned = 0;
  absl::Status watched;
  std::jthread watch([&] {
    absl::Status status = client.Watch(
        [&](const ClusterReport& report) {
          const std::lock_guard lock(mutex);
          owned = static_cast<int>(
              std::count_if(report.view.regions.begin(), report.view.regions.end(), [&](const auto& region) {
                return region.record.owner == node || region.record.target == node;
              }));
          drained = owned == 0;
          if (drained) changed.notify_all();
          return !drained;
        },
        stop.get_token());
    const std::lock_guard lock(mutex);
    watched = std::move(status);
    ended = true;
    changed.notify_all();
  });
  const auto until = std::chrono::steady_clock::now() + most;
  std::unique_lock lock(mutex);
  while (!drained && !ended && !InterruptGuard::Requested() && std::chrono::steady_clock::now() < until)
    changed.wait_for(lock, std::chrono::milliseconds(50));
  stop.request_stop();
  if (drained) return absl::OkStatus();
  if (ended && !watched.ok()) return watched;
  return absl::DeadlineExceededError(absl::StrCat(
      "node ", node.value, " still has ", owned, owned == 1 ? " region" : " regions",
      "; it goes on giving them away, as far as other nodes have room: see omni cluster status"));
}

// The authority is made where there is none yet.
absl::StatusOr<int> MakeCertificates(const ClusterArgs& args) {
  std::error_code error;
  const bool there = std::filesystem::exists(args.first + "/authority.key", error);
  if (args.node.empty() != args.hosts.empty() || args.node.empty() != args.out.empty())
    return UsageError("a node's certificate wants --node, --hosts and --out; give all three, or none");
  if (there && args.node.empty())
    return UsageError(absl::StrCat(args.first,
                                   ": there is an authority already; say with --node, --hosts and --out "
                                   "for whom it is to make a certificate"));
  if (!there) {
    if (absl::Status s = MakeAuthority(args.first); !s.ok()) return s;
    if (!args.json) PrintF("%s: a new authority; authority.key stays here\n", args.first);
  }
  if (!args.node.empty()) {
    const std::vector<std::string> hosts = absl::StrSplit(args.hosts, ',');
    if (absl::Status s = MakeNodeCertificate(args.first, args.node, hosts, args.out); !s.ok()) return s;
    if (!args.json) PrintF("%s: the certificate of node %s at %s\n", args.out, args.node, args.hosts);
  }
  if (args.json) {
    nlohmann::json made = {{"authority", args.first}, {"new_authority", !there}};
    if (!args.node.empty())
      made["certificate"] = {{"folder", args.out}, {"node", args.node}, {"hosts", args.hosts}};
    PrintF("%s\n", JsonText(made));
  }
  FlushOutput();
  return kExitOk;
}

absl::StatusOr<int> RunCluster(const ClusterArgs& args) {
  const auto wants = [&](size_t words) -> absl::Status {
    const size_t given = (args.first.empty() ? 0 : 1) + (args.second.empty() ? 0 : 1);
    if (given == words) return absl::OkStatus();
    return UsageError(absl::StrCat("omni cluster ", args.action, " takes ", words,
                                   words == 1 ? " word" : " words", " more, not ", given,
                                   "; see omni cluster --help"));
  };
  const auto refuse = [&](const std::string& flag) -> absl::Status {
    if (flag.empty()) return absl::OkStatus();
    return UsageError(absl::StrCat(flag, " does nothing for omni cluster ", args.action, "; leave it out"));
  };
  if (args.action != "drain") {
    if (absl::Status s = refuse(args.of_drain.First()); !s.ok()) return s;
  }
  if (args.action != "cert") {
    if (absl::Status s = refuse(args.of_cert.First()); !s.ok()) return s;
  }
  if (args.action == "cert") {
    if (absl::Status s = wants(1); !s.ok()) return s;
    if (absl::Status s = refuse(args.flags.given().First()); !s.ok()) return s;
    return MakeCertificates(args);
  }
  if (args.flags.cluster.empty()) return UsageError("name a node of the cluster with --cluster HOST:PORT");
  absl::StatusOr<std::unique_ptr<ClusterClient>> client = args.flags.Connect();
  if (!client.ok()) return client.status();
  if (args.action == "health") {
    if (absl::Status s = wants(0); !s.ok()) return s;
    if (absl::Status s = (*client)->Health(); !s.ok()) return s;
    if (args.json) {
      PrintF("%s\n", JsonText(nlohmann::json{{"serving", true}}));
    } else {
      PrintF("serving\n");
    }
    return kExitOk;
  }
  if (args.action == "status" || args.action == "watch") {
    if (absl::Status s = wants(0); !s.ok()) return s;
    if (args.action == "watch") return Watch(**client, args.json);
    absl::StatusOr<ClusterReport> report = (*client)->Status();
    if (!report.ok()) return report.status();
    Show(*report, args.json);
    return kExitOk;
  }
  absl::Status done;
  if (args.action == "place") {
    if (absl::Status s = wants(2); !s.ok()) return s;
    if (args.first.size() > 6 || args.first.find_first_not_of("0123456789") != std::string::npos)
      return UsageError(absl::StrCat("'", args.first, "' is no number of a region"));
    done = (*client)->Place(RegionId(std::stoi(args.first)), {args.second == "-" ? "" : args.second});
  } else if (args.action == "drain") {
    if (absl::Status s = wants(1); !s.ok()) return s;
    if (args.undo && args.wait.count() > 0)
      return UsageError("--wait does nothing beside --undo; leave one of them out");
    done = (*client)->Drain({args.first}, args.undo);
    if (done.ok() && args.wait.count() > 0) done = WaitUntilDrained(**client, {args.first}, args.wait);
  } else if (args.action == "forget") {
    if (absl::Status s = wants(1); !s.ok()) return s;
    done = (*client)->Forget({args.first});
  } else if (args.action == "rebalance") {
    if (absl::Status s = wants(0); !s.ok()) return s;
    absl::StatusOr<int> moves = (*client)->Rebalance();
    if (!moves.ok()) return moves.status();
    if (args.json) {
      PrintF("%s\n", JsonText(nlohmann::json{{"moves", *moves}}));
    } else {
      PrintF("%d moves begun\n", *moves);
    }
    FlushOutput();
  } else {
    return UsageError(absl::StrCat(
        "omni cluster knows status, watch, health, place, drain, forget, rebalance and cert, not '",
        args.action, "'"));
  }
  if (!done.ok()) return done;
  if (args.json && args.action != "rebalance") {
    PrintF("%s\n", JsonText(nlohmann::json{{"recorded", true}}));
    FlushOutput();
  }
  return kExitOk;
}

}  // namespace

void AddCluster(CLI::App& root, Invocation& invocation) {
  Verb verb(
      root, invocation, "cluster", "Look at a cluster, and move its regions",
      "  omni cluster status --cluster 127.0.0.1:7300\n"
      "  omni cluster watch --json --cluster 127.0.0.1:7300 | jq .nodes\n"
      "  omni cluster place 3 kitchen --cluster 127.0.0.1:7300    # region 3 to the node, and stay; - "
      "takes it back\n"
      "  omni cluster health --cluster 127.0.0.1:7300             # of this node alone: exit code 0, it "
      "serves\n"
      "  omni cluster drain kitchen --cluster 127.0.0.1:7300      # everything off it; --wait 1m, --undo\n"
      "  omni cluster forget kitchen --cluster 127.0.0.1:7300     # it is switched off for good\n"
      "  omni cluster rebalance --cluster 127.0.0.1:7300\n"
      "  omni cluster cert authority --node kitchen --hosts 10.0.0.2 --out kitchen-certificate");
  auto args = std::make_shared<ClusterArgs>();
  verb.Require(verb.Argument(
      "ACTION", args->action,
      "status, watch, health, place REGION NODE, drain NODE, forget NODE, rebalance, cert FOLDER"));
  verb.Argument("WHAT", args->first,
                "Of place the region, of drain and forget the node, of cert the authority's folder");
  verb.Argument("NODE", args->second, "Of place the node, or -");
  args->flags.Add(verb);
  args->of_drain.Add(verb.Bool("--undo", args->undo, "Of drain: give the node regions again"));
  args->of_drain.Add(verb.Duration("--wait", args->wait,
                                   "Of drain: waits until the node owns no region, no longer than this"));
  args->of_cert.Add(verb.Text("--node", args->node, "Of cert: the node's name"));
  args->of_cert.Add(verb.Text("--hosts", args->hosts,
                              "Of cert: names and addresses at which it is reached, with commas between"));
  args->of_cert.Add(
      verb.Text("--out", args->out, "Of cert: the folder to make, which is the node's --certificates"));
  verb.Json(args->json);
  verb.Body([args] { return RunCluster(*args); });
}

}  // namespace omni::cli
