// The chooser and the checks at load. This file and op_ref.cc run on any CPU.
#include "kernels/op.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifdef OMNI_KERNELS_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels/variants.h"

namespace omni::kernels {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0); }

bool IsShape(int64_t rows, int64_t cols) { return rows > 0 && cols > 0 && cols <= kMaxCols; }

const Ops* BestOps() {
  const Ops* best = &kScalarOps;
  for (Isa isa : kAllIsas) {
    if (const Ops* ops = OpsFor(isa)) best = ops;
  }
  return best;
}

const Ops* ChooseOps() {
  const Ops* best = BestOps();
  const char* wanted = std::getenv("OMNI_ISA");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (Isa isa : kAllIsas) {
    if (std::strcmp(wanted, IsaName(isa)) != 0) continue;
    if (const Ops* ops = OpsFor(isa)) return ops;
    std::fprintf(stderr, "OMNI_ISA=%s: this CPU or build lacks it, using %s\n", wanted, IsaName(best->isa));
    return best;
  }
  std::fprintf(stderr, "OMNI_ISA=%s is not one of", wanted);
  for (Isa isa : kAllIsas) std::fprintf(stderr, " %s", IsaName(isa));
  std::fprintf(stderr, "; using %s\n", IsaName(best->isa));
  return best;
}

#ifdef OMNI_KERNELS_X86
bool HasAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
// g++ 12 cannot ask for it: CPUID leaf 7, subleaf 1, EAX bit 4. It needs no more of the operating system than
// AVX2.
bool HasAvxVnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return HasAvx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1) != 0;
}
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl");
}
bool HasAvx512Vbmi() {
  return HasAvx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}
// CPUID leaf 7, EDX bits 24 (tiles) and 25 (of bytes). The kernel must grant the tiles' 8 KiB per thread.
bool HasAmx() {
  constexpr unsigned kTilesOfBytes = 3u << 24;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kTilesOfBytes) == kTilesOfBytes &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

}  // namespace

const Ops* OpsFor(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return &kScalarOps;
#ifdef OMNI_KERNELS_X86
    case Isa::kAvx2:
      return HasAvx2() ? &kAvx2Ops : nullptr;
    case Isa::kAvxVnni:
      return HasAvxVnni() ? &kAvxVnniOps : nullptr;
    case Isa::kAvx512:
      return HasAvx512() ? &kAvx512Ops : nullptr;
    case Isa::kAvx512Vnni:
      return HasAvx512() && __builtin_cpu_supports("avx512vnni") ? &kAvx512VnniOps : nullptr;
    case Isa::kAvx512Vbmi:
      return HasAvx512Vbmi() ? &kAvx512VbmiOps : nullptr;
    case Isa::kAmx:
      return HasAvx512Vbmi() && HasAmx() ? &kAmxOps : nullptr;
#endif
    default:
      return nullptr;
  }
}

const Ops& ActiveOps() {
  static const Ops* const ops = ChooseOps();
  return *ops;
}

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvxVnni:
      return "avxvnni";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Vnni:
      return "avx512vnni";
    case Isa::kAvx512Vbmi:
      return "avx512vbmi";
    case Isa::kAmx:
      return "amx";
  }
  return "unknown";
}

Error CheckTernary(const TernaryMatrix& m, int64_t rows, int64_t cols) {
  if (m.base == nullptr && m.table == nullptr) return Error::kNull;
  if (!IsShape(rows, cols) || m.num_groups != CeilDiv(rows, kTernaryRows) ||
      m.num_blocks != CeilDiv(cols, kTernaryCols)) {
    return Error::kShape;
  }
  if (m.num_groups > 1 && m.group_stride < kTernaryBlockBytes) return Error::kShape;
  if (m.table == nullptr && m.num_blocks > 1 && m.block_stride < kTernaryBlockBytes) return Error::kShape;
  for (int64_t c = 0; c < m.num_blocks; ++c) {
    const uint8_t* column = m.table != nullptr ? m.table[c] : m.base + c * m.block_stride;
    if (column == nullptr) return Error::kNull;
    for (int64_t g = 0; g < m.num_groups; ++g) {
      const uint8_t* block = column + g * m.group_stride;
      uint8_t largest = 0;
      for (int64_t j = 0; j < kTernaryBlockBytes; ++j) largest = block[j] > largest ? block[j] : largest;
      if (largest > 242) return Error::kBadCode;
    }
  }
  return Error::kOk;
}

Error CheckTwoBit(const TwoBitMatrix& m, int64_t rows, int64_t cols) {
  if (m.base == nullptr) return Error::kNull;
  if (!IsShape(rows, cols) || m.num_groups != CeilDiv(rows, kTwoBitRows) ||
      m.num_blocks != CeilDiv(cols, kTernaryCols)) {
    return Error::kShape;
  }
  return Error::kOk;
}

Error CheckInt8(const Int8Matrix& m, int64_t rows, int64_t cols) {
  if (m.base == nullptr) return Error::kNull;
  if (!IsShape(rows, cols) || m.rows != rows || m.cols_padded != CeilDiv(cols, 64) * 64) return Error::kShape;
  if (rows > 1 && m.stride < m.cols_padded) return Error::kShape;
  return Error::kOk;
}

const char* ErrorText(Error e) {
  switch (e) {
    case Error::kOk:
      return "ok";
    case Error::kNull:
      return "a pointer to the matrix is null";
    case Error::kShape:
      return "the block counts or strides do not fit the matrix's rows and columns";
    case Error::kBadCode:
      return "a ternary byte is above 242, so it encodes no five trits";
  }
  return "unknown error";
}

}  // namespace omni::kernels
