// What a process says of its open model, and a whole node of itself.
#pragma once

#include "cluster/node.h"
#include "cluster/status_source.h"

namespace omni {

// Of the facts what the model says; the node's name and its context remain to be filled in.
ProcessFacts FactsOf(const Model& model);
// Adds what the model's cache has counted.
void AddCache(const Model& model, ProcessStatus& status);

// A node that holds all of its model.
class NodeStatus final : public StatusSource {
 public:
  explicit NodeStatus(const Node& node) : node_(node) {}  // outlives it, and is not restarted meanwhile
  ProcessFacts Facts() override;
  ProcessStatus Now() override;

 private:
  const Node& node_;
};

}  // namespace omni
