#include "cluster/node.h"

#include <utility>

#include <absl/strings/str_cat.h>

#include "cluster/model_calibration.h"
#include "store/plan/memory_plan.h"

namespace omni {

absl::StatusOr<std::unique_ptr<Node>> Node::Start(std::shared_ptr<ActorSystem> actors, NodeOptions options) {
  absl::StatusOr<Model> model = OpenModel(options.model, options.open);
  if (!model.ok()) return model.status();
  if (actors == nullptr) {
    absl::StatusOr<std::unique_ptr<ActorSystem>> started = ActorSystem::Start();
    if (!started.ok()) return started.status();
    actors = *std::move(started);
  }
  const SwarmOptions swarm = options.swarm;
  std::unique_ptr<Node> node(new Node(std::move(actors), std::move(options), *std::move(model)));
  node->calibration_ = CalibrationBeside(node->path(), node->model_.hash());
  absl::StatusOr<std::unique_ptr<ModelPolytopes>> polytopes = ModelPolytopes::Open(
      {node->options_.polytopes, node->path(), node->model_.hash(), node->model_.config().d});
  if (!polytopes.ok()) return polytopes.status();
  node->polytopes_ = *std::move(polytopes);
  if (!node->options_.memory.empty()) node->memory_ = Memory::At(node->options_.memory);
  node->adapters_ =
      std::make_unique<ModelAdapters>(node->model_.config(), node->model_.hash(), node->options_.adapters);
  if (absl::Status s = node->Restart(swarm); !s.ok()) return s;
  return node;
}

absl::Status Node::ResizeCache(int64_t bytes) {
  if (model_.cache() == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(options_.model,
                     ": is kept whole in memory, without a cache that could be resized; open it "
                     "with a memory budget"));
  }
  return model_.cache()->Resize(bytes);
}

absl::Status Node::Restart(const SwarmOptions& options) {
  swarm_ = nullptr;
  options_.swarm = options;
  SwarmOptions filled = options;
  if (!filled.coordinator.state_bytes.has_value() && model_.plan() != nullptr) {
    filled.coordinator.state_bytes = model_.plan()->bytes_for_sessions();
  }
  filled.coordinator.calibration = calibration_.has_value() ? &*calibration_ : nullptr;
  filled.polytopes = polytopes_.get();
  if (memory_ != nullptr) filled.memories = memory_.get();
  filled.adapters = adapters_.get();
  absl::StatusOr<std::unique_ptr<Swarm>> swarm =
      Swarm::Start(*actors_, model_.weights(), model_.experts(), model_.tokenizer(), filled);
  if (!swarm.ok()) return swarm.status();
  swarm_ = *std::move(swarm);
  return absl::OkStatus();
}

}  // namespace omni
