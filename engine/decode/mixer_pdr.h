// The PDR mixer (perspective decay recurrence) of one layer, over all rows of a pass. Internal to the
// decoder.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/decode/pass.h"
#include "engine/decode/scratch.h"
#include "engine/model/weights.h"

namespace omni {

// x += W_o norm(S q) with, per token and in this order:
//   k = (float(W_k q8) * (s * s_row)) / sqrt(r)    the root rounded to float, a true division; if key_scale
//   gamma = kernels decay(p, b_p), p changed by the session's adapter (row_adapter.h) if it has one
//   S and its readout by kernels pdr_step
//   the readout's norm by g_r                      if readout_norm
//
// After a token whose count (from 1) is a multiple of state_norm_period, and after its readout: N = the
// fixed-shape sum over rows i of the fixed-shape sums S_i . S_i; if sqrt(N) > sqrt(d r), then
// S *= sqrt(d r) / sqrt(N), all in float.
//
// A block of rows of S meets all tokens of its segment before the next block: S stays in cache, and since no
// row shares anything with another the result is that of stepping.
class PdrMixer {
 public:
  explicit PdrMixer(Pass& pass);
  void Run(const LayerWeights& layer, LayerId id);

 private:
  // Tokens of one segment up to its end or to the next normalisation of its state.
  struct Stretch {
    const Segment* segment;
    int64_t first_row, count;
    int64_t asides;  // rows before it that see its state as it is before the pass
    bool normalize_after;
  };

  void StepStates(const LayerWeights& layer, LayerId id, const Products& products, const float* scale);
  void StepBlock(const LayerWeights& layer, LayerId id, const Products& products, const float* scale,
                 const Stretch& stretch, int64_t block);
  void PrepareDecayChanges(LayerId id);
  void Normalize(float* S);

  Pass& pass_;
  const float decay_floor_, root_r_;
  const int64_t width_, rank_, block_rows_;  // strides of d and r wide rows; rows of S in a block
  Scratch<float> k_, q_, v_, gamma_, readout_, row_norms_, ones_, decay_inner_;
  std::vector<Stretch> stretches_;
};

}  // namespace omni
