// What the log says of the instruction set that computes.
#pragma once

#include "kernels/cpu.h"
#include "kernels/op.h"

namespace omni {

// Logs which instruction set computes, what the system keeps `cpu` from using, and what OMNI_ISA asked for in
// vain (`wanted`: its value, or null). For main functions, once.
void LogIsa(const char* wanted, const kernels::Cpu& cpu = kernels::ThisCpu(),
            const kernels::Ops& used = kernels::ActiveOps());

}  // namespace omni
