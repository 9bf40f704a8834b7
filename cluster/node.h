// One process of the swarm: a model that is open, and what serves it.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "actors/actor_system.h"
#include "actors/memory.h"
#include "actors/swarm.h"
#include "cluster/model_adapters.h"
#include "cluster/model_polytopes.h"
#include "engine/around/calibration.h"
#include "store/model/model.h"

namespace omni {

struct NodeOptions {
  std::string model;  // the directory
  OpenOptions open;
  std::string polytopes;  // the file of them; empty: kPolytopesFile beside the model, if it is there
  std::string memory;     // the folder of the memory of texts; empty: requests cannot ask for one
  std::string adapters;   // their folder; empty: that of the state directory
  // Its coordinator's state_bytes is filled in from the memory plan where it says nothing, and its
  // calibration is what lies beside the model. Its polytopes and adapters are the files'.
  SwarmOptions swarm;
};

// Thread-safe but for Restart.
class Node {
 public:
  // Opens the model and starts a swarm on it. `actors` may be shared with other nodes of the process; null:
  // the node starts a system of its own once the model is open, so that its threads have not gone to sleep
  // when the first prompt comes (which then took a sixth longer).
  static absl::StatusOr<std::unique_ptr<Node>> Start(std::shared_ptr<ActorSystem> actors,
                                                     NodeOptions options);

  // Ends every session and begins a new swarm on the same model, with what is in memory of it. Nobody may be
  // using the swarm. After an error there is none: only Restart may be called.
  absl::Status Restart(const SwarmOptions& options);

  // What the cache of experts may take of memory from now on, beside sessions that go on: slower or faster,
  // and never another token. Waits for tiles in use. FailedPrecondition: the model is kept whole; else
  // ExpertCache::Resize's errors.
  absl::Status ResizeCache(int64_t bytes);

  const std::string& path() const { return options_.model; }
  const Model& model() const { return model_; }
  PolytopeSource& polytopes() { return *polytopes_; }
  MemorySource* memories() { return memory_.get(); }  // null: there is none
  AdapterSource& adapters() { return *adapters_; }
  Swarm& swarm() { return *swarm_; }
  const Swarm& swarm() const { return *swarm_; }

 private:
  Node(std::shared_ptr<ActorSystem> actors, NodeOptions options, Model model)
      : actors_(std::move(actors)), options_(std::move(options)), model_(std::move(model)) {}

  std::shared_ptr<ActorSystem> actors_;
  NodeOptions options_;
  Model model_;
  std::optional<Calibration> calibration_;
  std::unique_ptr<ModelPolytopes> polytopes_;
  std::unique_ptr<Memory> memory_;
  std::unique_ptr<ModelAdapters> adapters_;
  std::unique_ptr<Swarm> swarm_;
};

}  // namespace omni
