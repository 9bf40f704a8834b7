// AVX2 with FMA and F16C. Only reached after op.cc has asked the CPU.
#include "kernels/bytes_avx2.h"
#include "kernels/lanes_avx2.h"
#include "kernels/op.h"
#include "kernels/products.h"
#include "kernels/variants.h"
#include "kernels/vector_ops.h"

namespace omni::kernels {

constinit const Ops kAvx2Ops = VectorOps<Lanes>::Table(Isa::kAvx2, ProductsByGroup<PairProducts<Bytes>>{});

}  // namespace omni::kernels
