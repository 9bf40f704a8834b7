// In place of the x86-64 files where they are not built: variants without functions, a CPU that has nothing.
#include "kernels/cpu.h"
#include "kernels/variants.h"

namespace omni::kernels {

constinit const Ops kAvx2Ops = {};
constinit const Ops kAvxVnniOps = {};
constinit const Ops kAvx512Ops = {};
constinit const Ops kAvx512VnniOps = {};
constinit const Ops kAvx512VbmiOps = {};
constinit const Ops kAmxOps = {};

CpuRegisters ReadCpuRegisters() { return {}; }

}  // namespace omni::kernels
