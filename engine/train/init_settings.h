// How the parameters of a new model are drawn.
#pragma once

#include <cstdint>

namespace omni::train {

struct InitSettings {
  float gamma_min = 0.5f, gamma_max = 0.5f;  // initial sigmoid(b_p), 1 - gamma log-uniform over the dims
  float embed_std = 0.2f;                    // large enough not to drown in the first branches' output
  float logit_std = 0.3f;                    // of the first logits: sets norm_out's start
  float decay_weight_std = 0.02f;            // W_p, times 1/sqrt(d)
  float route_std = 0.02f;                   // W_route, times 1/sqrt(d)
  uint64_t seed = 1;
};

}  // namespace omni::train
