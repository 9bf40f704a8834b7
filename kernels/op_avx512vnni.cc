// AVX-512 (F, BW, VL) with VNNI. Only reached after op.cc has asked the CPU.
#include "kernels/bytes_avx512.h"
#include "kernels/lanes_avx512.h"
#include "kernels/op.h"
#include "kernels/products.h"
#include "kernels/variants.h"
#include "kernels/vector_ops.h"

namespace omni::kernels {

constinit const Ops kAvx512VnniOps =
    VectorOps<Lanes>::Table(Isa::kAvx512Vnni, ProductsByGroup<DotProducts<Bytes>>{});

}  // namespace omni::kernels
