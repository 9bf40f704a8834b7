// Views of a packed model's weights. The bytes belong to whoever loaded them (store/, or a test) and outlive
// the views.
#pragma once

#include <cstdint>
#include <vector>

#include <absl/status/status.h>

#include "engine/model/config.h"
#include "kernels/op.h"

namespace omni {

inline constexpr int64_t kTileNeurons = 64;

// Byte layout of one expert tile (64 neurons of one expert of one layer):
//   [gate and up rows interleaved g0 u0 g1 u1 … : 26 ternary groups x d_pad bytes]
//   [down: ceil(d/5) groups x 64 bytes, output rows 0..d-1 against the tile's 64 neurons]
//   [s_g: 64 float32][s_u: 64 float32]          s_u holds mean|up row| * mean|down column|
// payload() bytes in all; files align tiles further. Neurons past f have trits 0 and scales 0.
struct TileLayout {
  explicit TileLayout(int64_t width) : d(width), d_pad(PadTo(width, 64)) {}
  int64_t d, d_pad;
  int64_t down_groups() const { return (d + 4) / 5; }
  int64_t down_offset() const { return 26 * d_pad; }
  int64_t gate_scale_offset() const { return down_offset() + down_groups() * 64; }
  int64_t up_scale_offset() const { return gate_scale_offset() + 4 * kTileNeurons; }
  int64_t payload() const { return up_scale_offset() + 4 * kTileNeurons; }
};
inline int64_t TilesPerExpert(const ModelConfig& c) { return PadTo(c.f, kTileNeurons) / kTileNeurons; }

// A two-bit linear map: y = float(sum levels*q) * (x_scale * scale[row]); scale[row] is s/2 (the half is
// folded in).
struct TwoBitLinear {
  kernels::TwoBitMatrix m;
  const float* scale = nullptr;  // [rows padded to 4]
  int64_t rows = 0, cols = 0;
};

struct LayerWeights {
  const float* norm1 = nullptr;  // [d]
  const float* norm2 = nullptr;  // [d]
  // PDR (unset in attention layers)
  TwoBitLinear wp, wk, wq, wv,
      wo;  // wp,wv,wo: d x d; wk,wq: r x d.  GQA uses wq: d x d, wk,wv: (H_kv h) x d, wo: d x d
  const float* bp = nullptr;            // [d]
  const float* norm_readout = nullptr;  // [d], null if config.readout_norm is off
  // Shared FFN (attention layers)
  TwoBitLinear gate, up, down;  // f x d, f x d, d x f
  // Router (expert layers)
  const float* route = nullptr;       // [3, d]
  const float* positions = nullptr;   // [experts, 3]
  const float* route_bias = nullptr;  // [experts], null if config.route_bias is off
  // The place in its region of the expert that a token takes, [V]; null unless config.route_from is kAddress.
  const uint8_t* members = nullptr;
};

struct ModelWeights {
  ModelConfig config;
  kernels::Int8Matrix embedding;           // [V, d_pad]
  const float* embedding_scale = nullptr;  // [V]
  const float* norm_out = nullptr;         // [d]
  std::vector<LayerWeights> layers;
};

// Every matrix has the config's shape and codes its kernel accepts, no pointer is missing, and every float
// (scales, norms, biases, router) is finite; positions lie in [0, 1). The error names the layer and the
// matrix.
absl::Status CheckWeights(const ModelWeights& weights);
// The codes of one tile (layout.payload() bytes) are trits and its scales finite. Alignment: 4 bytes.
absl::Status CheckTile(const TileLayout& layout, const uint8_t* tile);

}  // namespace omni
