#include "engine/train/cpu_ops.h"

#include <cstdlib>

#include "kernels/cpu.h"

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

struct Variant {
  std::string_view name;
  bool (*supports)(const kernels::Cpu& cpu);
  const CpuOps* ops;
};
constexpr Variant kVariants[] = {
    {"amx", SupportsAmx, &amx::kOps},
    {"avx512bf16", SupportsAvx512Bf16, &avx512bf16::kOps},
    {"avx2", SupportsAvx2, &avx2::kOps},
    {"baseline", [](const kernels::Cpu&) { return true; }, &baseline::kOps},
};

}  // namespace

bool SupportsAvx2(const kernels::Cpu& cpu) {
  return cpu.keeps_ymm && cpu.avx2 && cpu.fma && cpu.f16c && cpu.bmi1 && cpu.bmi2 && cpu.lzcnt && cpu.movbe;
}

bool SupportsAvx512Bf16(const kernels::Cpu& cpu) {
  return SupportsAvx2(cpu) && cpu.keeps_zmm && cpu.avx512f && cpu.avx512bw && cpu.avx512cd && cpu.avx512dq &&
         cpu.avx512vl && cpu.avx512bf16;
}

bool SupportsAmx(const kernels::Cpu& cpu) {
  return SupportsAvx512Bf16(cpu) && cpu.amx_tile && cpu.amx_bf16 && cpu.keeps_tiles && cpu.granted_tiles;
}

const CpuOps* OpsNamed(std::string_view name) {
  for (const Variant& v : kVariants) {
    if (v.name == name) return v.supports(kernels::ThisCpu()) ? v.ops : nullptr;
  }
  return nullptr;
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
