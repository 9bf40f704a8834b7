#include "cli/open_node.h"

namespace omni::cli {

absl::StatusOr<std::unique_ptr<Node>> OpenNode(const std::string& path, const StreamFlags& stream,
                                               int64_t threads, int64_t ctx, const DeviceFlags& device,
                                               const std::string& polytopes, const std::string& memory,
                                               int64_t states) {
  const absl::StatusOr<DeviceChoice> choice = device.Choice();
  if (!choice.ok()) return choice.status();
  absl::StatusOr<OpenOptions> open = stream.Options(path);
  if (!open.ok()) return open.status();
  open->sessions = states;
  NodeOptions options;
  options.model = path;
  options.open = *open;
  options.polytopes = polytopes;
  options.memory = memory;
  options.swarm.threads = static_cast<int>(threads);
  options.swarm.max_context = ctx;
  options.swarm.coordinator.predict_ahead = stream.PredictAhead(*open);
  options.swarm.device = *choice;
  return Node::Start(nullptr, std::move(options));
}

}  // namespace omni::cli
