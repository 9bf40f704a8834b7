#include "cli/node_flags.h"

#include <tuple>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "cli/cluster_flags.h"
#include "engine/base/json.h"
#include "engine/base/quoted.h"
#include "store/model/find_model.h"

namespace omni::cli {

void NodeFlags::Add(Verb& verb) {
  verb.Text("--advertise", advertise, "HOST:PORT where other nodes reach this one (default: as it listens)");
  verb.Text("--join", join, "HOST:PORT[,...] of coordinators; without it, this node coordinates");
  verb.Text("--name", name, "What the node is called, the same after a restart (default: its address)");
  verb.Text("--cluster-name", cluster, "What the cluster is called (default omni)");
  verb.Size("--offer-ram", offer_ram,
            "Memory for experts (default: the whole model if it fits, else what is free)");
  verb.Text("--etcd", etcd, "HOST:PORT[,...] of etcd, which lets several coordinators survive each other");
  verb.Number("--shadows", shadows, {0, 1},
              "Of a coordinator: second nodes of a region that hold its tiles too (default 1)");
  verb.Number(
      "--hedge", hedge, {0, 100},
      "Of a coordinator: percent of requests that a second node may be asked when the first takes long; "
      "0: never, and a stalled node stalls the answer until its connection is given up (default 5)");
  verb.Choice(
      "--durable", durable, {"local", "sync", "cluster"},
      "What a token survives once it is shown: the process, a power cut, or the coordinator (default local)");
  verb.Duration("--keep-answers", keep_answers,
                "For how long a client that went away may take its answer up again (default 10m)");
  verb.Path("--state", state, "Folder of what a coordinator keeps (default: below $XDG_STATE_HOME/omni)");
  verb.Path("--executors", executors,
            "File of the programs that this node runs for tasks (docs/executors.md)");
  verb.Path("--polytopes", polytopes,
            "File of the polytopes that requests may ask for, read again when it changes (default: "
            "polytopes.omni beside the model)");
  verb.Path("--memory", memory,
            "Of a coordinator: folder of the memory of texts (default: memory in the folder of its state)");
  verb.Path("--adapters", adapters,
            "Folder of the adapters that requests may ask for (default: where omni adapt keeps them)");
  verb.Path("--certificates", certificates, "Folder of this node's certificate (omni cluster cert)");
  verb.Bool("--allow-plain", allow_plain, "Off loopback without encryption; said at every start");
  verb.Bool("--log-requests,!--no-log-requests", log_requests,
            "Log each request, with --log-level info (default: yes)");
  verb.Threads(threads);
  device.Add(verb);
}

absl::StatusOr<ClusterNodeOptions> NodeFlags::Options(const std::string& given,
                                                      const std::string& listen_flag,
                                                      const std::string& listen) const {
  ClusterNodeOptions options;
  if (!join.empty() && !given.empty()) {
    options.model = given;  // it need not be there: what the node needs is fetched
  } else {
    absl::StatusOr<std::string> path = FindModel(given);
    if (!path.ok()) return path.status();
    options.model = *path;
  }
  absl::StatusOr<std::vector<std::string>> addresses = ReadAddresses(listen_flag, listen);
  if (!addresses.ok()) return addresses.status();
  if (addresses->size() != 1) return UsageError(absl::StrCat(listen_flag, " takes one HOST:PORT"));
  options.listen = addresses->front();
  // Records and messages, which all nodes read, have them.
  for (const auto& [flag, text] : {std::pair("--name", &name), std::pair("--cluster-name", &cluster),
                                   std::pair("--advertise", &advertise)}) {
    if (nlohmann::json::parse(JsonText(nlohmann::json(*text))) != *text)
      return UsageError(absl::StrCat(flag, " is no UTF-8: ", Quoted(*text)));
  }
  options.advertise = advertise;
  options.id = name;
  options.cluster = cluster;
  for (const auto& [flag, text, to] :
       {std::tuple("--join", &join, &options.join), std::tuple("--etcd", &etcd, &options.etcd)}) {
    if (text->empty()) continue;
    absl::StatusOr<std::vector<std::string>> read = ReadAddresses(flag, *text);
    if (!read.ok()) return read.status();
    *to = *std::move(read);
  }
  options.durability = durable == "cluster" ? SessionDurability::kCluster
                       : durable == "sync"  ? SessionDurability::kSync
                                            : SessionDurability::kLocal;
  if (options.durability == SessionDurability::kCluster && options.etcd.empty())
    return UsageError("--durable cluster keeps sessions in etcd; name its members with --etcd");
  options.keep_answers = keep_answers;
  if (offer_ram > 0) options.offer_bytes = offer_ram;
  options.allow_plain = allow_plain;
  options.certificates = certificates;
  options.executors = executors;
  const char* of_coordinators = !polytopes.empty()  ? "--polytopes"
                                : !adapters.empty() ? "--adapters"
                                                    : nullptr;
  if (of_coordinators != nullptr && !join.empty() && etcd.empty()) {
    return UsageError(absl::StrCat(of_coordinators,
                                   " does nothing for a node that joins others and cannot coordinate: it "
                                   "computes what a coordinator has adapted and projects; leave it out"));
  }
  options.polytopes = polytopes;
  if (!memory.empty() && !join.empty() && etcd.empty()) {
    return UsageError(
        "--memory does nothing for a node that joins others and cannot coordinate, for coordinators "
        "remember; "
        "leave it out");
  }
  options.memory = memory;
  options.adapters = adapters;
  options.state_dir = state;
  options.swarm.threads = static_cast<int>(threads);
  const absl::StatusOr<DeviceChoice> choice = device.Choice();
  if (!choice.ok()) return choice.status();
  options.swarm.device = *choice;
  options.log_requests = log_requests.value_or(true);
  options.shadows = shadows > 0;
  options.hedges.enabled = hedge > 0;
  options.hedges.share = static_cast<double>(hedge) / 100;
  return options;
}

}  // namespace omni::cli
