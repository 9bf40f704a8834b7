#include <csignal>
#include <memory>
#include <thread>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "cli/cluster_flags.h"
#include "cli/output.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cluster/cluster_node.h"
#include "engine/base/interrupt.h"
#include "kernels/op.h"
#include "store/model/find_model.h"
#include "store/state/state_dir.h"

namespace omni::cli {
namespace {

struct NodeArgs {
  std::string model, listen, advertise, join, name, etcd, cluster = "omni", state, durable = "local",
                                                          certificates;
  int64_t offer_ram = 0, threads = 0;
  std::chrono::milliseconds keep_answers = std::chrono::minutes(10);
  int64_t shadows = 1, hedge = 5;
  bool allow_plain = false;
};

absl::StatusOr<ClusterNodeOptions> ToOptions(const NodeArgs& args) {
  ClusterNodeOptions options;
  if (!args.join.empty() && !args.model.empty()) {
    options.model = args.model;  // it need not be there: what the node needs is fetched
  } else {
    absl::StatusOr<std::string> path = FindModel(args.model);
    if (!path.ok()) return path.status();
    options.model = *path;
  }
  absl::StatusOr<std::vector<std::string>> listen = ReadAddresses("--listen", args.listen);
  if (!listen.ok()) return listen.status();
  if (listen->size() != 1) return UsageError("--listen takes one HOST:PORT");
  options.listen = listen->front();
  options.advertise = args.advertise;
  options.id = args.name;
  options.cluster = args.cluster;
  for (const auto& [flag, text, to] :
       {std::tuple("--join", &args.join, &options.join), std::tuple("--etcd", &args.etcd, &options.etcd)}) {
    if (text->empty()) continue;
    absl::StatusOr<std::vector<std::string>> read = ReadAddresses(flag, *text);
    if (!read.ok()) return read.status();
    *to = *std::move(read);
  }
  options.durability = args.durable == "cluster" ? SessionDurability::kCluster
                       : args.durable == "sync"  ? SessionDurability::kSync
                                                 : SessionDurability::kLocal;
  if (options.durability == SessionDurability::kCluster && options.etcd.empty())
    return UsageError("--durable cluster keeps sessions in etcd; name its members with --etcd");
  options.keep_answers = args.keep_answers;
  if (args.offer_ram > 0) options.offer_bytes = args.offer_ram;
  options.allow_plain = args.allow_plain;
  options.certificates = args.certificates;
  options.state_dir = args.state;
  if (args.state.empty()) {
    absl::StatusOr<std::string> dir = StateDir();
    if (!dir.ok()) return dir.status();
    options.state_dir = absl::StrCat(*dir, "/clusters/", args.cluster);
  }
  options.swarm.threads = static_cast<int>(args.threads);
  options.host_threads = static_cast<int>(args.threads);
  options.shadows = args.shadows > 0;
  options.hedges.enabled = args.hedge > 0;
  options.hedges.share = static_cast<double>(args.hedge) / 100;
  return options;
}

absl::StatusOr<int> RunNode(const NodeArgs& args) {
  absl::StatusOr<ClusterNodeOptions> options = ToOptions(args);
  if (!options.ok()) return options.status();
  const InterruptGuard interrupt;
  absl::StatusOr<std::unique_ptr<ClusterNode>> node = ClusterNode::Start(*options);
  if (!node.ok()) return node.status();
  const Model& model = (*node)->model();
  Note(absl::StrCat("omni " OMNI_VERSION " · ", options->model, " (", model.config().preset, ") · ",
                    model.config().num_regions(), " regions · node ", (*node)->id(), " at ",
                    (*node)->address(), " · ", kernels::IsaName(kernels::ActiveOps().isa)));
  // For whoever started it: the address, with the port that was found.
  PrintF("listening on %s\n", (*node)->address().c_str());
  FlushOutput();
  while (!InterruptGuard::Requested()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  return kExitOk;
}

}  // namespace

void AddNode(CLI::App& root, Invocation& invocation) {
  Verb verb(
      root, invocation, "node", "Serve regions of the torus, and coordinate a cluster",
      "  omni node --listen 127.0.0.1:7300                            # begins a cluster and coordinates it\n"
      "  omni node --listen 127.0.0.1:7301 --join 127.0.0.1:7300      # takes regions from it\n"
      "  omni run 'The sea' --cluster 127.0.0.1:7300\n\n"
      "Ends with an interrupt. Off loopback it wants certificates: see omni cluster cert.");
  auto args = std::make_shared<NodeArgs>();
  verb.Model(args->model);
  verb.Require(verb.Text("--listen", args->listen, "HOST:PORT to listen on; port 0 takes a free one"));
  verb.Text("--advertise", args->advertise,
            "HOST:PORT where other nodes reach this one (default: as it listens)");
  verb.Text("--join", args->join, "HOST:PORT[,...] of coordinators; without it, this node coordinates");
  verb.Text("--name", args->name, "What the node is called, the same after a restart (default: its address)");
  verb.Text("--cluster-name", args->cluster, "What the cluster is called (default omni)");
  verb.Size("--offer-ram", args->offer_ram,
            "Memory for experts (default: the whole model if it fits, else what is free)");
  verb.Text("--etcd", args->etcd,
            "HOST:PORT[,...] of etcd, which lets several coordinators survive each other");
  verb.Number("--shadows", args->shadows, {0, 1},
              "Of a coordinator: second nodes of a region that hold its tiles too (default 1)");
  verb.Number(
      "--hedge", args->hedge, {0, 100},
      "Of a coordinator: percent of requests that a second node may be asked when the first takes long; "
      "0: never, and a stalled node stalls the answer until its connection is given up (default 5)");
  verb.Choice(
      "--durable", args->durable, {"local", "sync", "cluster"},
      "What a token survives once it is shown: the process, a power cut, or the coordinator (default local)");
  verb.Duration("--keep-answers", args->keep_answers,
                "For how long a client that went away may take its answer up again (default 10m)");
  verb.Path("--state", args->state,
            "Folder of what a coordinator keeps (default: below $XDG_STATE_HOME/omni)");
  verb.Path("--certificates", args->certificates, "Folder of this node's certificate (omni cluster cert)");
  verb.Bool("--allow-plain", args->allow_plain, "Off loopback without encryption; said at every start");
  verb.Threads(args->threads);
  verb.Body([args] { return RunNode(*args); });
}

}  // namespace omni::cli
