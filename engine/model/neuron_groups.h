// Which experts of a layer have which neurons in common.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/config.h"

namespace omni {

enum class NeuronKind {
  kBase,    // the same in all experts of a layer
  kRegion,  // the same in all experts of a region
  kMember,  // the same in the experts at one place of their regions
  kOwn,     // each expert's alone
};

// Neighbouring neurons of an expert that are of one kind.
struct NeuronGroup {
  NeuronKind kind = NeuronKind::kRegion;
  int64_t first = 0, count = 0;
  int64_t copies = 1;          // different ones in a layer
  const char* tensor = "";     // in a checkpoint: layers.N.TENSOR.gate (engine/model/checkpoint.h)
  const char* copy_name = "";  // what a copy belongs to, for messages

  // The one that an expert has, below `copies`.
  int64_t CopyOf(const ModelConfig& config, ExpertId expert) const;
  // The expert of lowest id that has it.
  ExpertId FirstWith(const ModelConfig& config, int64_t copy) const;
};

// Those of a valid config that have neurons, in their order: together all f of an expert.
std::vector<NeuronGroup> NeuronGroups(const ModelConfig& config);

// Tiles of one layer that may differ from each other.
int64_t UniqueTilesPerLayer(const ModelConfig& config);

}  // namespace omni
