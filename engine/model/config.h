// Every dimension of a model. Nothing else in the project may assume one.
#pragma once

#include <absl/status/statusor.h>

#include <array>
#include <cstdint>
#include <string>

#include "engine/base/ids.h"

namespace omni {

struct ModelConfig {
  std::string preset = "custom";
  int64_t layers =
      0;  // L; layer l is windowed attention if l % attention_period == attention_period - 1, else PDR
  int64_t attention_period = 4;
  int64_t d = 0;         // model width
  int64_t r = 0;         // PDR rank
  int64_t f = 0;         // FFN width (neurons)
  int64_t heads = 0;     // H, divides d; h = d / H even
  int64_t kv_heads = 0;  // H_kv, divides H
  int64_t window = 0;    // W, positions attended, the current one included
  int64_t vocab = 0;     // V >= 257
  std::array<int64_t, 3> lattice = {8, 4, 4};
  std::array<int64_t, 3> region = {2, 2, 2};  // the block of the lattice one region owns; divides lattice
  int64_t own_neurons =
      0;  // neurons of an expert not tied to its region: 0, or f - own_neurons a multiple of 64
  bool key_scale = true;      // k / sqrt(r)
  bool readout_norm = true;   // g_r before W_o
  float decay_floor = -5.0f;  // floor of log gamma, in [-80, 0)
  int64_t state_norm_period = 8192;
  double rope_theta = 10000.0;

  bool IsAttention(int64_t layer) const { return layer % attention_period == attention_period - 1; }
  int64_t head_dim() const { return d / heads; }
  int64_t num_experts() const { return lattice[0] * lattice[1] * lattice[2]; }
  int64_t num_regions() const { return num_experts() / (region[0] * region[1] * region[2]); }
  int64_t experts_per_region() const { return region[0] * region[1] * region[2]; }
  // Regions are numbered like experts, over the lattice of blocks; the keyframe expert of a region is its
  // first.
  RegionId RegionOf(ExpertId e) const;
  ExpertId ExpertOf(RegionId region,
                    int64_t index_in_region) const;  // index = a + rx * (b + ry * c) inside the block
  int64_t IndexInRegion(ExpertId e) const;

  bool operator==(const ModelConfig&) const = default;
};

// Parameters by part, derived from the config alone. "Nominal" counts every expert whole. The parts and the
// sums count matrices; what is not a matrix (norm gains, decay biases, expert positions) is in norms_router
// alone, and in no sum.
struct ParameterCount {
  int64_t pdr = 0, gqa = 0, shared_ffn = 0, embedding = 0, norms_router = 0;
  int64_t per_expert = 0, experts = 0;
  int64_t router = 0;  // W_route of every expert layer
  int64_t shared() const { return pdr + gqa + shared_ffn + embedding + router; }
  int64_t total() const { return shared() + experts; }
  int64_t active() const { return shared() + per_expert; }
};
ParameterCount CountParameters(const ModelConfig& c);  // c is valid

absl::StatusOr<ModelConfig> Preset(const std::string& name);
std::vector<std::string> PresetNames();  // that Preset knows: perspective-1t, mini, char, tiny
// OK, or InvalidArgument naming the first wrong field, its value and its limit. A valid config's sizes and
// counts all fit in int64 with room to spare: at most 2^50 parameters, 65536 wide, 1024 layers, 65536
// experts.
absl::Status Validate(const ModelConfig& c);
std::string ToJson(const ModelConfig& c);  // one object, stable key order; equal configs give equal text
// The inverse of ToJson, validated. Every key must be there once and no other; the error names the key.
absl::StatusOr<ModelConfig> ConfigFromJson(const std::string& text);

inline int64_t PadTo(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace omni
