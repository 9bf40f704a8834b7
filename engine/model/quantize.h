// Float weights to codes: the one definition that the trainer's straight-through pass and the packer share.
// Weights are finite (whoever reads them from outside checks that). Thread-safe; needs the default rounding
// mode.
#pragma once

#include <cstdint>

namespace omni {

// Ternary, one neuron vector (a gate row, an up row or a down column) of n floats, element i at w[i *
// stride]: m = float(mean |w|) summed in double in 16 partial sums
// (element i goes to sum i mod 16, ascending; then i+8, +4, +2, +1); trit = +1 if w > m/2, -1 if w <
// -m/2, else 0 (round-half-down of w/m, clipped). Returns m. m == 0 gives all zeros.
float Ternarize(const float* w, int64_t n, int64_t stride, int8_t* trits);

// Two bits, one output row: s = float(sqrt(mean w^2)), the mean summed like Ternarize's (0.996 sigma is the
// best uniform 4-level step for a Gaussian); level = -3, -1, 1 or 3, with thresholds -s, 0 (0 counts as
// positive), s: w < -s: -3, w < 0: -1, w < s: 1, else 3. The weight stands for level * s/2. Returns s.
float TwoBitLevels(const float* w, int64_t n, int8_t* levels);

// int8 embedding row: s = max|w| / 127, q = round-half-even(w / s), within [-127, 127]. Returns s; 0 for an
// all-zero row.
float Int8Row(const float* w, int64_t n, int8_t* q);

}  // namespace omni
