// Asks an x86-64 CPU. Runs on any of them: no instruction here is beyond the baseline.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu.h"

namespace omni::kernels {
namespace {

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf ReadLeaf(unsigned leaf, unsigned subleaf) {
  Leaf out;
  if (__get_cpuid_count(leaf, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx) == 0) return {};
  return out;
}

uint64_t ReadXcr0() {
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

}  // namespace

CpuRegisters ReadCpuRegisters() {
  constexpr uint32_t kOsXsave = 1u << 27;      // of leaf 1's ECX: xgetbv may be used
  constexpr uint32_t kTile = 1u << 24;         // of leaf 7's EDX
  constexpr uint64_t kTileData = 18;           // of XCR0; also the kernel's number for it
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  CpuRegisters r;
  const Leaf leaf1 = ReadLeaf(1, 0), leaf7 = ReadLeaf(7, 0);
  r.leaf1_ecx = leaf1.ecx;
  r.leaf7_ebx = leaf7.ebx;
  r.leaf7_ecx = leaf7.ecx;
  r.leaf7_edx = leaf7.edx;
  if (leaf7.eax >= 1) r.leaf7_1_eax = ReadLeaf(7, 1).eax;
  r.extended1_ecx = ReadLeaf(0x80000001, 0).ecx;
  if ((r.leaf1_ecx & kOsXsave) != 0) r.xcr0 = ReadXcr0();
  if ((r.leaf7_edx & kTile) != 0 && (r.xcr0 >> kTileData & 1) != 0) {
    r.granted_tiles = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }
  return r;
}

}  // namespace omni::kernels
