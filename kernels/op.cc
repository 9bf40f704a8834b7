// The chooser and the checks at load. This file and op_ref.cc run on any CPU.
#include "kernels/op.h"

#include <cstdlib>
#include <cstring>
#include <iterator>

#include "kernels/cpu.h"
#include "kernels/variants.h"

namespace omni::kernels {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0); }

bool IsShape(int64_t rows, int64_t cols) { return rows > 0 && cols > 0 && cols <= kMaxCols; }

struct Variant {
  Isa isa;
  const char* name;
  bool (*supports)(const Cpu& cpu);
  const Ops* ops;
};
constexpr Variant kVariants[] = {
    {Isa::kScalar, "scalar", [](const Cpu&) { return true; }, &kScalarOps},
    {Isa::kAvx2, "avx2", SupportsAvx2, &kAvx2Ops},
    {Isa::kAvxVnni, "avxvnni", SupportsAvxVnni, &kAvxVnniOps},
    {Isa::kAvx512, "avx512", SupportsAvx512, &kAvx512Ops},
    {Isa::kAvx512Vnni, "avx512vnni", SupportsAvx512Vnni, &kAvx512VnniOps},
    {Isa::kAvx512Vbmi, "avx512vbmi", SupportsAvx512Vbmi, &kAvx512VbmiOps},
    {Isa::kAmx, "amx", SupportsAmx, &kAmxOps},
};
static_assert(std::size(kVariants) == std::size(kAllIsas));

const Ops& ChooseOps() {
  const char* wanted = std::getenv("OMNI_ISA");
  for (Isa isa : kAllIsas) {
    const Ops* ops = wanted != nullptr && std::strcmp(wanted, IsaName(isa)) == 0 ? OpsFor(isa) : nullptr;
    if (ops != nullptr) return *ops;
  }
  return BestOps(ThisCpu());
}

}  // namespace

bool SupportsAvx2(const Cpu& cpu) { return cpu.keeps_ymm && cpu.avx2 && cpu.fma && cpu.f16c; }

bool SupportsAvxVnni(const Cpu& cpu) { return SupportsAvx2(cpu) && cpu.avx_vnni; }

bool SupportsAvx512(const Cpu& cpu) {
  return SupportsAvx2(cpu) && cpu.keeps_zmm && cpu.avx512f && cpu.avx512bw && cpu.avx512vl;
}

bool SupportsAvx512Vnni(const Cpu& cpu) { return SupportsAvx512(cpu) && cpu.avx512vnni; }

bool SupportsAvx512Vbmi(const Cpu& cpu) { return SupportsAvx512Vnni(cpu) && cpu.avx512vbmi; }

bool SupportsAmx(const Cpu& cpu) {
  return SupportsAvx512Vbmi(cpu) && cpu.amx_tile && cpu.amx_int8 && cpu.keeps_tiles && cpu.granted_tiles;
}

const Ops* OpsFor(Isa isa, const Cpu& cpu) {
  for (const Variant& v : kVariants) {
    if (v.isa != isa) continue;
    const bool built = v.ops->ternary != nullptr;
    return built && v.supports(cpu) ? v.ops : nullptr;
  }
  return nullptr;
}

const Ops* OpsFor(Isa isa) { return OpsFor(isa, ThisCpu()); }

const Ops& BestOps(const Cpu& cpu) {
  const Ops* best = &kScalarOps;
  for (Isa isa : kAllIsas) {
    if (const Ops* ops = OpsFor(isa, cpu)) best = ops;
  }
  return *best;
}

const Ops& ActiveOps() {
  static const Ops& ops = ChooseOps();
  return ops;
}

const char* IsaName(Isa isa) {
  for (const Variant& v : kVariants) {
    if (v.isa == isa) return v.name;
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
