#include "cluster/node_status.h"

#include "kernels/op.h"

namespace omni {

ProcessFacts FactsOf(const Model& model) {
  ProcessFacts facts;
  facts.config = model.config();
  facts.model_hash = model.hash();
  facts.isa = kernels::IsaName(kernels::ActiveOps().isa);
  if (model.plan() != nullptr) {
    facts.plan = *model.plan();
    facts.unique_tiles = facts.plan->unique_tiles;
    facts.tile_bytes = facts.plan->tile_bytes;
  }
  if (model.cache() != nullptr) facts.reads = model.cache()->description();
  return facts;
}

void AddCache(const Model& model, ProcessStatus& status) {
  if (model.cache() == nullptr) return;
  status.cache = model.cache()->stats();
  status.cache_bytes = model.cache()->bytes();
}

ProcessFacts NodeStatus::Facts() {
  ProcessFacts facts = FactsOf(node_.model());
  facts.node = node_.path();
  facts.max_context = node_.swarm().options().max_context;
  return facts;
}

ProcessStatus NodeStatus::Now() {
  ProcessStatus status;
  status.swarm = node_.swarm().Stats();
  AddCache(node_.model(), status);
  return status;
}

}  // namespace omni
