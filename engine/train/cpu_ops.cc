#include "engine/train/cpu_ops.h"

#include <cstdlib>

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

const CpuOps* OpsNamed(std::string_view name) {
  __builtin_cpu_init();
  if (name == "avx512bf16") {
    const bool has = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return has ? &avx512bf16::kOps : nullptr;
  }
  if (name == "avx2")
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2::kOps : nullptr;
  return name == "baseline" ? &baseline::kOps : nullptr;
}

const CpuOps& Ops() {
  static const CpuOps* const chosen = [] {
    const char* set = std::getenv("OMNI_ISA");
    const std::string_view wanted = set ? set : "";
    const bool narrow = wanted == "scalar" || wanted == "avx2" || wanted == "avxvnni";
    const CpuOps* ops = narrow ? nullptr : OpsNamed("avx512bf16");
    if (!ops && wanted != "scalar") ops = OpsNamed("avx2");
    return ops ? ops : OpsNamed("baseline");
  }();
  return *chosen;
}

}  // namespace omni::train
