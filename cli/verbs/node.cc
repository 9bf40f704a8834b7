#include <chrono>
#include <memory>

#include <absl/strings/str_cat.h>

#include "cli/node_flags.h"
#include "cli/output.h"
#include "cli/service.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cluster/access.h"
#include "cluster/cluster_node.h"
#include "engine/base/interrupt.h"
#include "kernels/op.h"
#include "store/state/state_dir.h"

namespace omni::cli {
namespace {

struct NodeArgs {
  std::string model, listen, keys;
  NodeFlags node;
};

absl::StatusOr<int> RunNode(const NodeArgs& args) {
  absl::StatusOr<ClusterNodeOptions> options = args.node.Options(args.model, "--listen", args.listen);
  if (!options.ok()) return options.status();
  if (options->state_dir.empty()) {
    absl::StatusOr<std::string> dir = StateDir();
    if (!dir.ok()) return dir.status();
    options->state_dir = absl::StrCat(*dir, "/clusters/", args.node.cluster);
  }
  if (!args.keys.empty()) {
    absl::StatusOr<std::unique_ptr<Access>> access = Access::Open(args.keys);
    if (!access.ok()) return access.status();
    options->access = *std::move(access);
  }
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
  ServeUntilInterrupted(**node, absl::StrCat("node ", (*node)->id(), " at ", (*node)->address()),
                        std::chrono::seconds(0));
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
  verb.Path("--keys", args->keys,
            "File of the keys that clients must show who have no node's certificate (omni key makes it; "
            "default: none is wanted)");
  args->node.Add(verb);
  verb.Body([args] { return RunNode(*args); });
}

}  // namespace omni::cli
