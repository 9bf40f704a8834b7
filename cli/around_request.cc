#include "cli/around_request.h"

#include <string>
#include <utility>

#include "cluster/model_adapters.h"
#include "engine/around/context_stage.h"
#include "engine/around/perspectives.h"
#include "engine/model/session_state.h"
#include "store/format/model_files.h"
#include "store/state/adapter_files.h"

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

absl::StatusOr<int64_t> StatesToPlan(const AroundFlags& around, const DeviceFlags& device,
                                     const std::string& path, int64_t tokens) {
  const absl::StatusOr<DeviceChoice> choice = device.Choice();
  if (!choice.ok()) return choice.status();
  // As Session::states has it: the CPU looks aside from one state, a device copies it.
  const int64_t looking = choice->kind == DeviceChoice::Kind::kCpu ? 2 : kPerspectives;
  const int64_t states = around.perspectives.has_value() ? looking : 1;
  int64_t bytes = around.context_memory ? SessionContexts::MostBytes(tokens) : 0;
  if (bytes == 0 && around.adapter.empty()) return states;
  const absl::StatusOr<ModelFiles> model = ReadModelFiles(path, {.tiles = false, .shared = false});
  if (!model.ok()) return model.status();
  const ModelConfig& config = model->manifest.config;
  if (!around.adapter.empty()) {
    // That there is none, or another model's, is said when it is asked for.
    const absl::StatusOr<AdapterFiles> files = OpenAdapterFiles();
    const absl::StatusOr<int64_t> most =
        files.ok() ? MostAdapterBytes(*files, around.adapter, config.d) : files.status();
    if (most.ok()) bytes += *most;
  }
  const int64_t state = SessionState::BytesFor(config);
  return states + (bytes + state - 1) / state;
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
