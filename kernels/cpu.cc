#include "kernels/cpu.h"

namespace omni::kernels {
namespace {

bool Bit(uint64_t word, int bit) { return (word >> bit & 1) != 0; }
bool Bits(uint64_t word, uint64_t mask) { return (word & mask) == mask; }

}  // namespace

Cpu CpuFrom(const CpuRegisters& r) {
  constexpr uint64_t kYmm = 0x6;        // XMM and the upper halves of YMM
  constexpr uint64_t kZmm = 0xe6;       // those, mask registers, upper halves of ZMM0-15, ZMM16-31
  constexpr uint64_t kTiles = 0x60000;  // their configuration and their data
  Cpu cpu;
  cpu.fma = Bit(r.leaf1_ecx, 12);
  cpu.movbe = Bit(r.leaf1_ecx, 22);
  cpu.f16c = Bit(r.leaf1_ecx, 29);
  cpu.lzcnt = Bit(r.extended1_ecx, 5);
  cpu.bmi1 = Bit(r.leaf7_ebx, 3);
  cpu.avx2 = Bit(r.leaf7_ebx, 5);
  cpu.bmi2 = Bit(r.leaf7_ebx, 8);
  cpu.avx512f = Bit(r.leaf7_ebx, 16);
  cpu.avx512dq = Bit(r.leaf7_ebx, 17);
  cpu.avx512cd = Bit(r.leaf7_ebx, 28);
  cpu.avx512bw = Bit(r.leaf7_ebx, 30);
  cpu.avx512vl = Bit(r.leaf7_ebx, 31);
  cpu.avx512vbmi = Bit(r.leaf7_ecx, 1);
  cpu.avx512vnni = Bit(r.leaf7_ecx, 11);
  cpu.amx_bf16 = Bit(r.leaf7_edx, 22);
  cpu.amx_tile = Bit(r.leaf7_edx, 24);
  cpu.amx_int8 = Bit(r.leaf7_edx, 25);
  cpu.avx_vnni = Bit(r.leaf7_1_eax, 4);
  cpu.avx512bf16 = Bit(r.leaf7_1_eax, 5);
  cpu.keeps_ymm = Bits(r.xcr0, kYmm);
  cpu.keeps_zmm = Bits(r.xcr0, kZmm);
  cpu.keeps_tiles = Bits(r.xcr0, kTiles);
  cpu.granted_tiles = r.granted_tiles;
  return cpu;
}

const Cpu& ThisCpu() {
  static const Cpu cpu = CpuFrom(ReadCpuRegisters());
  return cpu;
}

}  // namespace omni::kernels
