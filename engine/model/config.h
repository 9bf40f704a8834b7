// Every dimension of a model. Nothing else in the project may assume one.
#pragma once

#include <absl/status/statusor.h>

#include <array>
#include <cstdint>
#include <string>

#include "engine/base/ids.h"

namespace omni {

// What an expert layer's router looks at.
enum class RouteFrom {
  kToken,    // the present token's normed vector: the expert is known when the layer's mixer is over
  kAhead,    // the layer's slow state before the token: known before the token starts
  kAddress,  // the region from the slow state, the expert in it from the token's id
};

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

  // Format 2. A config that leaves these as they are is one of format 1.
  RouteFrom route_from = RouteFrom::kToken;
  float slow_rate = 0.0f;      // alpha of the slow state, in (0, 1]; 0 exactly if route_from is kToken
  bool route_bias = false;     // the nearest expert is that of least dist^2 - b_e
  int64_t base_neurons = 0;    // equal in all experts of a layer
  int64_t member_neurons = 0;  // equal in the experts at one place of their regions
  // An expert's neurons are in this order base, region, member, own; where there is more than one group, each
  // but the last is a multiple of 64.
  int64_t region_neurons() const { return f - base_neurons - member_neurons - own_neurons; }
  bool has_slow_state() const { return route_from != RouteFrom::kToken; }
  int format() const;  // 1 or 2: the lowest version that can say it

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
