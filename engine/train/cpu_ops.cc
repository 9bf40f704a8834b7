#include "engine/train/cpu_ops.h"

#include <cstdlib>
#include <cstring>

namespace omni::train {

namespace avx512bf16 {
extern const CpuOps kOps;
}
namespace avx2 {
extern const CpuOps kOps;
}
namespace baseline {
extern const CpuOps kOps;
}

const CpuOps& Ops() {
  static const CpuOps* const chosen = [] {
    const char* wanted = std::getenv("OMNI_ISA");
    const bool scalar = wanted && std::strcmp(wanted, "scalar") == 0;
    const bool avx2_only = wanted && std::strcmp(wanted, "avx2") == 0;
    __builtin_cpu_init();
    if (!scalar && !avx2_only && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      return &avx512bf16::kOps;
    }
    if (!scalar && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2::kOps;
    return &baseline::kOps;
  }();
  return *chosen;
}

}  // namespace omni::train
