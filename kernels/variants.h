// What the files of this folder share: the function tables with what each needs of the CPU, and the numbers
// behind exp and log. Constants and declarations only: an inline function here could be compiled with one
// file's instructions and linked into another's.
#pragma once

#include <cstdint>

#include "kernels/op.h"

namespace omni::kernels {

// Every variant in ascending order of Isa, beside it whether a CPU can run the instructions that its file is
// compiled with (CMakeLists.txt). A table that this build lacks is there without functions (no_x86.cc).
extern const Ops kScalarOps;  // any CPU
extern const Ops kAvx2Ops;
bool SupportsAvx2(const Cpu& cpu);
extern const Ops kAvxVnniOps;
bool SupportsAvxVnni(const Cpu& cpu);
extern const Ops kAvx512Ops;
bool SupportsAvx512(const Cpu& cpu);
extern const Ops kAvx512VnniOps;
bool SupportsAvx512Vnni(const Cpu& cpu);
extern const Ops kAvx512VbmiOps;
bool SupportsAvx512Vbmi(const Cpu& cpu);
extern const Ops kAmxOps;
bool SupportsAmx(const Cpu& cpu);

// OpsFor of a CPU other than this one.
const Ops* OpsFor(Isa isa, const Cpu& cpu);

inline constexpr int64_t kLanes = 16;  // partial sums of a float reduction
inline constexpr float kRmsEpsilon = 1e-6f;
inline constexpr float kInt8Max = 127.0f;

// exp(x) = 2^n (1 + r + r^2 q(r)), n = round(x log2 e), r = x - n ln 2. q is the minimax polynomial of degree
// 4 for the relative error over |r| <= 0.34662 (Remez exchange; 3.8e-9 after rounding the coefficients to
// float).
inline constexpr float kExpMax = 89.0f;    // exp of more is +inf
inline constexpr float kExpMin = -104.0f;  // exp of less is 0
inline constexpr float kLog2E = 0x1.715476p+0f;
inline constexpr float kRoundMagic =
    0x1.8p+23f;  // t = x + kRoundMagic holds round(x) in its low mantissa bits
inline constexpr float kLn2High = 0x1.62e43p-1f;
inline constexpr float kLn2Low = -0x1.05c61p-29f;
inline constexpr float kExpPoly[5] = {0x1.fffffcp-2f, 0x1.555492p-3f, 0x1.5558f2p-5f, 0x1.1239e8p-7f,
                                      0x1.6a242cp-10f};

// log x = n ln 2 + log(1 + t), x = 2^n (1 + t) with 1 + t in [1/sqrt 2, sqrt 2);
// log(1 + t) = t - t^2 / 2 + t^3 q(t), q through nine Chebyshev nodes of that interval. No division.
inline constexpr float kLogMin = 0x1p-126f;           // what is less counts as this
inline constexpr int32_t kHalfRootBits = 0x3f3504f3;  // of 1 / sqrt 2
inline constexpr int32_t kMantissaBits = 0x7fffff;
inline constexpr float kLogLn2High = 0.693145752f, kLogLn2Low = 1.42860677e-6f;
inline constexpr float kLogPoly[9] = {0.333333312f,  -0.24999997f, 0.200007157f,  -0.166678023f, 0.142490576f,
                                      -0.124256873f, 0.116854199f, -0.114797338f, 0.0697161144f};

}  // namespace omni::kernels
