// What an adapter changes of the token step for the rows that bring it: small parameters beside the model's
// own, in float32. Whoever holds the parameters (engine/around/adapter.h) outlives the pass; all of them have
// the shapes of the model's configuration.
#pragma once

#include <cstdint>
#include <vector>

namespace omni {

inline constexpr int64_t kAdapterRank = 4;  // of the changes of a layer's decay

// One layer's. The decay's change, in PDR layers: p += left (core (right h)), h the row that W_p reads before
// it is quantised; left null: none, core null: the identity.
struct LayerChange {
  float mixer_gain = 0, ffn_gain = 0;  // quantised inputs of the mixer and of the FFN times 1 + gain
  const float* left = nullptr;         // [d, kAdapterRank]
  const float* core = nullptr;         // [kAdapterRank, kAdapterRank]
  const float* right = nullptr;        // [kAdapterRank, d]
};

// y becomes y (1 + gain) + map (basis y), elementwise where it is a product of vectors; then the bias is
// added to the logits. Null: not there. basis null: the first `rank` elements of y, as they are.
struct HeadChange {
  const float* gain = nullptr;  // [d]
  int64_t rank = 0;
  const float* map = nullptr;    // [d, rank]
  const float* basis = nullptr;  // [rank, d]
  const float* bias = nullptr;   // [V]
};

struct RowAdapter {
  std::vector<LayerChange> layers;  // of every layer of the model, or none
  HeadChange head;
};

}  // namespace omni
