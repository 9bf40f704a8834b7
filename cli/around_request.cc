#include "cli/around_request.h"

#include <string>
#include <utility>

namespace omni::cli {

void AskAround(const AroundFlags& around, GenerateRequest& request) {
  request.perspectives = around.perspectives;
  request.safety.polytope = around.safety;
  request.adapter.name = around.adapter;
  request.context_memory = around.context_memory;
  request.memory.scope = around.memory_scope;
}

void AskAround(const AroundFlags& around, ClusterClient::Request& request) {
  request.perspectives = around.perspectives;
  request.safety = around.safety;
  request.adapter = around.adapter;
  request.context_memory = around.context_memory;
  request.memory = around.memory_scope;
}

absl::StatusOr<HeldMemory> HoldAround(Node& node, GenerateRequest& request, TokenReport& report) {
  if (!request.safety.polytope.empty()) {
    const absl::StatusOr<HeldPolytope> held = node.polytopes().Take(request.safety);
    if (!held.ok()) return held.status();
    report.SetPolytope(request.safety.polytope, held->hash);
  }
  if (!request.adapter.name.empty()) {
    absl::StatusOr<std::string> hash = node.adapters().Hash(request.adapter);
    if (!hash.ok()) return hash.status();
    report.SetAdapter(request.adapter.name, *std::move(hash));
  }
  if (request.memory.scope.empty()) return HeldMemory();
  absl::StatusOr<HeldMemory> held = node.memories()->Hold("", request.memory);
  if (!held.ok()) return held.status();
  request.memory.version = held->version;
  report.SetMemory(request.memory.scope, held->version);
  return held;
}

void TellAround(const ClusterClient::Request& request, const ClusterClient::Answer& answer,
                TokenReport& report) {
  report.SetPolytope(request.safety, answer.safety_hash);
  report.SetMemory(request.memory, answer.memory_version);
  report.SetAdapter(request.adapter, answer.adapter_hash);
}

}  // namespace omni::cli
