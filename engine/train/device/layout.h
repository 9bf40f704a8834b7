// A model's parameters by name and shape, as engine/train/model.h has them, without libtorch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/neuron_groups.h"
#include "engine/train/coding.h"
#include "engine/train/init_settings.h"

namespace omni::train {

// Matrices are [groups, rows, cols] row-major, vectors [cols].
struct ParamLayout {
  std::string name;
  int64_t groups = 1, rows = 1, cols = 0;
  bool matrix = false;
  Coding coding = Coding::kNone;
  bool decay = false;                 // weight decay applies
  std::vector<int64_t> stacked = {};  // rows of the matrices stacked in it; empty: AdamW's
  double std_dev = 0;                 // of a matrix's first weights
  float value = 0;                    // every first one of a vector

  bool router() const { return matrix && coding == Coding::kNone; }
  int64_t size() const { return groups * rows * cols; }
};

struct GroupLayout {
  NeuronGroup group;
  size_t gate_up = 0, down = 0;  // parameters
  std::vector<int32_t> copy_of;  // per expert
};

constexpr size_t kNoParam = ~size_t{0};

struct LayerLayout {
  bool attention = false;
  size_t norm1 = 0, norm2 = 0, mix_in = 0, mix_out = 0;
  size_t gate_up = kNoParam, down = kNoParam;                         // attention
  size_t bias = kNoParam, norm_readout = kNoParam, route = kNoParam;  // recurrence
  std::vector<GroupLayout> groups;                                    // likewise
};

struct Layout {
  std::vector<ParamLayout> params;
  size_t embed = 0, norm_out = 0;
  std::vector<LayerLayout> layers;
  std::vector<int32_t> region_of;  // per expert
  std::vector<float> positions;    // [experts, 3]
};

Layout MakeLayout(const ModelConfig& config, const InitSettings& init);

// The first weights of a parameter, in its layout; another key, others.
std::vector<float> FirstWeights(const ModelConfig& config, const InitSettings& init, const ParamLayout& param,
                                uint64_t key);

}  // namespace omni::train
