#include "engine/model/neuron_groups.h"

namespace omni {

int64_t NeuronGroup::CopyOf(const ModelConfig& config, ExpertId expert) const {
  switch (kind) {
    case NeuronKind::kBase:
      break;
    case NeuronKind::kRegion:
      return config.RegionOf(expert).value;
    case NeuronKind::kMember:
      return config.IndexInRegion(expert);
    case NeuronKind::kOwn:
      return expert.value;
  }
  return 0;
}

ExpertId NeuronGroup::FirstWith(const ModelConfig& config, int64_t copy) const {
  switch (kind) {
    case NeuronKind::kBase:
      break;
    case NeuronKind::kRegion:
      return config.ExpertOf(RegionId(static_cast<int32_t>(copy)), 0);
    case NeuronKind::kMember:
      return config.ExpertOf(RegionId(0), copy);
    case NeuronKind::kOwn:
      return ExpertId(static_cast<int32_t>(copy));
  }
  return ExpertId(0);
}

std::vector<NeuronGroup> NeuronGroups(const ModelConfig& config) {
  std::vector<NeuronGroup> groups;
  int64_t first = 0;
  const auto add = [&](NeuronGroup group) {
    if (group.count == 0) return;
    group.first = first;
    first += group.count;
    groups.push_back(group);
  };
  add({NeuronKind::kBase, 0, config.base_neurons, 1, "base", "base"});
  add({NeuronKind::kRegion, 0, config.region_neurons(), config.num_regions(), "tied", "region"});
  add({NeuronKind::kMember, 0, config.member_neurons, config.experts_per_region(), "member", "member"});
  add({NeuronKind::kOwn, 0, config.own_neurons, config.num_experts(), "own", "expert"});
  return groups;
}

int64_t UniqueTilesPerLayer(const ModelConfig& config) {
  int64_t tiles = 0;
  for (const NeuronGroup& group : NeuronGroups(config)) tiles += group.copies * (PadTo(group.count, 64) / 64);
  return tiles;
}

}  // namespace omni
