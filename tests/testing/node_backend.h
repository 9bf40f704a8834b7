// A node that holds all of its model, as the doors see it.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cluster/inference_backend.h"
#include "cluster/node.h"

namespace omni::testing {

class NodeBackend final : public InferenceBackend {
 public:
  explicit NodeBackend(Node& node) : node_(node) {}  // outlives it, and is not restarted meanwhile

  absl::Status Serving() override { return absl::OkStatus(); }
  std::string Elsewhere() override { return {}; }
  absl::StatusOr<std::string> PolytopeHash(const SafetyChoice& choice) override {
    return node_.polytopes().Hash(choice);
  }
  absl::StatusOr<HeldMemory> HoldMemory(const std::string& caller, const MemoryChoice& choice) override {
    return node_.memories()->Hold(caller, choice);
  }
  absl::StatusOr<std::string> AdapterHash(const AdapterChoice& choice) override {
    return node_.adapters().Hash(choice);
  }
  absl::StatusOr<std::vector<OfferedAdapter>> Adapters() override { return node_.adapters().List(); }
  absl::StatusOr<std::unique_ptr<SessionHandle>> Submit(GenerateRequest request,
                                                        SubmitOptions options) override {
    return node_.swarm().Submit(std::move(request), std::move(options));
  }
  const Tokenizer& tokenizer() override { return node_.model().tokenizer(); }
  int64_t max_context() override { return node_.swarm().options().max_context; }
  std::string model_hash() override { return node_.model().hash(); }
  std::string node() override { return node_.path(); }

 private:
  Node& node_;
};

}  // namespace omni::testing
