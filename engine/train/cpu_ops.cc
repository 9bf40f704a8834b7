#include "engine/train/cpu_ops.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

namespace omni::train {

namespace amx {
extern const CpuOps kOps;
}
namespace avx512bf16 {
extern const CpuOps kOps;
}
namespace avx2 {
extern const CpuOps kOps;
}
namespace baseline {
extern const CpuOps kOps;
}

namespace {

bool HasAvx512Bf16() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

// AMX, which the kernel must also grant: tiles are 8 KB more for it to save of each thread.
bool HasTiles() {
  // CPUID leaf 7, EDX
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kAmxBf16) != 0 && (d & kAmxTile) != 0 &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

const CpuOps* OpsNamed(std::string_view name) {
  __builtin_cpu_init();
  if (name == "amx") return HasAvx512Bf16() && HasTiles() ? &amx::kOps : nullptr;
  if (name == "avx512bf16") return HasAvx512Bf16() ? &avx512bf16::kOps : nullptr;
  if (name == "avx2")
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2::kOps : nullptr;
  return name == "baseline" ? &baseline::kOps : nullptr;
}

const CpuOps& Ops() {
  static const CpuOps* const chosen = [] {
    const char* set = std::getenv("OMNI_ISA");
    const std::string_view wanted = set ? set : "";
    const bool narrow = wanted == "scalar" || wanted == "avx2" || wanted == "avxvnni";
    const bool tiles = wanted.empty() || wanted == "amx";
    const CpuOps* ops = tiles ? OpsNamed("amx") : nullptr;
    if (!ops && !narrow) ops = OpsNamed("avx512bf16");
    if (!ops && wanted != "scalar") ops = OpsNamed("avx2");
    return ops ? ops : OpsNamed("baseline");
  }();
  return *chosen;
}

}  // namespace omni::train
