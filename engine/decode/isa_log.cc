#include "engine/decode/isa_log.h"

#include <string>
#include <string_view>

#include "engine/base/log.h"

namespace omni {

void LogIsa(const char* wanted, const kernels::Cpu& cpu, const kernels::Ops& used) {
  const std::string_view isa = kernels::IsaName(used.isa);
  LogDebug("isa_chosen", "computing with {isa}", {{"isa", isa}});
  if (wanted != nullptr && *wanted != '\0' && wanted != isa) {
    std::string known;
    for (const kernels::Isa other : kernels::kAllIsas) {
      if (kernels::OpsFor(other) == nullptr) continue;
      known += (known.empty() ? "" : ", ") + std::string(kernels::IsaName(other));
    }
    LogWarning("isa_refused", "OMNI_ISA={wanted}: this CPU and build have {known}; {isa} is used",
               {{"wanted", wanted}, {"known", known}, {"isa", isa}});
  }
  kernels::Cpu granted = cpu;
  granted.keeps_ymm = granted.keeps_zmm = granted.keeps_tiles = granted.granted_tiles = true;
  const kernels::Ops& best = kernels::BestOps(granted);
  if (best.isa != kernels::BestOps(cpu).isa) {
    LogInfo("isa_not_granted", "the CPU has {better}, but the system does not let it be used; {isa} is used",
            {{"better", kernels::IsaName(best.isa)}, {"isa", isa}});
  }
}

}  // namespace omni
