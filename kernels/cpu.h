// What this CPU has, and what the operating system lets this process use of it: asked once, for everything
// that chooses between variants of its code. A choice is a function of this struct alone, so that a test can
// make up the CPU.
#pragma once

#include <cstdint>

namespace omni::kernels {

struct Cpu {
  // Instructions that CPUID names. The letters of AVX-512 stand apart: CPUs combine them freely.
  bool lzcnt = false, movbe = false, bmi1 = false, bmi2 = false;
  bool avx2 = false, fma = false, f16c = false, avx_vnni = false;
  bool avx512f = false, avx512bw = false, avx512cd = false, avx512dq = false, avx512vl = false;
  bool avx512vnni = false, avx512vbmi = false, avx512bf16 = false;
  bool amx_tile = false, amx_int8 = false, amx_bf16 = false;

  // Registers that the operating system keeps for every thread (XCR0): of 256 bits, of 512, tiles. Without,
  // the instructions fault.
  bool keeps_ymm = false, keeps_zmm = false, keeps_tiles = false;
  // Linux gives a process its tiles on request only, and may refuse.
  bool granted_tiles = false;
};

// What Cpu is read from; zero where the CPU has no such leaf.
struct CpuRegisters {
  uint32_t leaf1_ecx = 0;
  uint32_t leaf7_ebx = 0, leaf7_ecx = 0, leaf7_edx = 0;
  uint32_t leaf7_1_eax = 0;
  uint32_t extended1_ecx = 0;  // of leaf 0x80000001
  uint64_t xcr0 = 0;
  bool granted_tiles = false;
};
CpuRegisters ReadCpuRegisters();  // this CPU's; asks the kernel for tiles if there are any
Cpu CpuFrom(const CpuRegisters& registers);

// This one, asked at the first call. Thread-safe.
const Cpu& ThisCpu();

}  // namespace omni::kernels
