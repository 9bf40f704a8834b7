// A process of a cluster: serves regions to whoever coordinates, coordinates itself if it may, and answers
// for the cluster over gRPC.
//
//     omni node --listen 10.0.0.1:7300                            begins a cluster and coordinates it
//     omni node --listen 10.0.0.2:7300 --join 10.0.0.1:7300       serves regions
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/swarm.h"
#include "cluster/access.h"
#include "cluster/caller_limits.h"
#include "cluster/certificates.h"
#include "cluster/cluster_link.h"
#include "cluster/coordinator_role.h"
#include "cluster/host_state.h"
#include "cluster/inference_backend.h"
#include "cluster/peer_state.h"
#include "cluster/status_source.h"
#include "cluster/tasks/push_target.h"
#include "store/model/model.h"

namespace omni {

class HttpExtension;
class TlsContext;

// How lasting a token is before it is shown.
enum class SessionDurability {
  kLocal,    // it survives the end of the process
  kSync,     // it survives a power cut of the coordinator
  kCluster,  // it survives the coordinator: it is in etcd
};

// What `state_dir` is.
enum class StateFolder {
  kItself,      // the folder
  kByModel,     // what has a folder for every model
  kFreeByModel  // what has folders for every model, of which the first is taken that nobody has
};

struct ClusterNodeOptions {
  std::string id;                 // empty: the address
  std::string listen;             // HOST:PORT; port 0: one that is free
  std::string advertise;          // where others reach it; empty: as it listens
  std::vector<std::string> join;  // coordinators; empty: it coordinates
  std::vector<std::string> etcd;  // the coordination store's members; empty: an embedded store
  std::string etcd_prefix = "omni/";
  std::string cluster = "omni";  // its name
  std::string model;             // the directory
  std::string model_name;        // what clients call it; empty: ModelName
  std::string state_dir;         // of the embedded store and the session log
  StateFolder state_folder = StateFolder::kItself;
  // What of its memory experts may take; nothing: all of the model if that fits, else what is free.
  std::optional<int64_t> offer_bytes;
  SessionDurability durability = SessionDurability::kLocal;
  std::chrono::milliseconds keep_answers = std::chrono::minutes(10);  // after a client was last there
  bool allow_plain = false;                                           // off loopback without encryption
  std::string certificates;  // a node's folder of `omni cluster cert`; empty: none
  // Not null: clients that show no node's certificate need a key (cluster/grpc_access.h).
  std::shared_ptr<Access> access;
  std::shared_ptr<CallerLimits> limits;    // of those who ask for answers; null: none
  int64_t most_tokens = int64_t{1} << 40;  // of one answer
  std::shared_ptr<TlsContext> tls;         // with `access` and no `certificates`: TLS for those clients
  // The file of programs that are run for tasks (docs/executors.md); empty: none.
  std::string executors;
  // The file of polytopes that requests may ask for while it coordinates; empty: kPolytopesFile beside the
  // model, if it is there.
  std::string polytopes;
  // The folder of the memory of texts, while it coordinates; empty: `memory` in `state_dir`. Made with the
  // first text.
  std::string memory;
  std::string adapters;  // the folder of those that requests may ask for; empty: that of the state directory
  PushConfig push;       // who may be told of tasks by HTTP; its `allow` empty: nobody
  OpenOptions open;      // ram_bytes and residency are filled in
  bool fitted = false;   // they are already
  SwarmOptions swarm;    // its threads compute the regions that it serves to others too
  PeerOptions peers;
  HedgeOptions hedges;
  bool log_requests = true;                // over gRPC, at the level info
  bool shadows = true;                     // a second node for every region, where there is room
  std::chrono::milliseconds gone{10'000};  // a node so long down is replaced
  std::chrono::milliseconds leader_lease{1'500};
};

class ClusterNode {
 public:
  static absl::StatusOr<std::unique_ptr<ClusterNode>> Start(ClusterNodeOptions options);
  ~ClusterNode();

  const std::string& address() const;  // where others reach it
  const std::string& id() const;
  const Model& model() const;
  // As the process's other doors see it: what is asked while another node leads goes to that one. It goes
  // with the node.
  InferenceBackend& backend();
  // Of the swarm of a node that coordinates; while there is none, nothing but zeros. Thread-safe, and does
  // not wait.
  SwarmStats Stats() const;
  // Waits until it leads or knows who does, but no longer than `most`: whether it does.
  bool WaitForLeader(std::chrono::milliseconds most);
  // Whether the thread that runs the actors has come around since this was asked before, the first time yes;
  // has it come around once more. One thread.
  bool Turned();
  StatusSource& status();  // as long as the node; of the cluster while it coordinates
  // What else it answers over HTTP, for the one door that the process has, which goes before the node. Once.
  std::vector<HttpExtension*> OpenHttpExtensions();

  // No new answers are given from now on, by any door, and health checks hear of it. What is under way goes
  // on.
  void StopServing();
  // Waits until no answer over gRPC is under way, but no longer than `most`: whether none is.
  bool WaitForAnswers(std::chrono::milliseconds most);

 private:
  struct Impl;
  explicit ClusterNode(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
