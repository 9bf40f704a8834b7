// AVX2 with AVX-VNNI. Only reached after op.cc has asked the CPU.
#include "kernels/bytes_avx2.h"
#include "kernels/lanes_avx2.h"
#include "kernels/op.h"
#include "kernels/products.h"
#include "kernels/variants.h"
#include "kernels/vector_ops.h"

namespace omni::kernels {

constinit const Ops kAvxVnniOps =
    VectorOps<Lanes>::Table(Isa::kAvxVnni, ProductsByGroup<DotProducts<Bytes>>{});

}  // namespace omni::kernels
