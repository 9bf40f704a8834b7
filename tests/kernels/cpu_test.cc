// What is read from a CPU's registers, and which variants a CPU that is made up gets.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/op.h"
#include "kernels/variants.h"

namespace omni::kernels {
namespace {

// The flags by name: a member pointer for each, so that tests can walk over them.
struct Flag {
  const char* name;
  bool Cpu::*bit;
};
constexpr Flag kFlags[] = {
    {"lzcnt", &Cpu::lzcnt},
    {"movbe", &Cpu::movbe},
    {"bmi1", &Cpu::bmi1},
    {"bmi2", &Cpu::bmi2},
    {"avx2", &Cpu::avx2},
    {"fma", &Cpu::fma},
    {"f16c", &Cpu::f16c},
    {"avx_vnni", &Cpu::avx_vnni},
    {"avx512f", &Cpu::avx512f},
    {"avx512bw", &Cpu::avx512bw},
    {"avx512cd", &Cpu::avx512cd},
    {"avx512dq", &Cpu::avx512dq},
    {"avx512vl", &Cpu::avx512vl},
    {"avx512vnni", &Cpu::avx512vnni},
    {"avx512vbmi", &Cpu::avx512vbmi},
    {"avx512bf16", &Cpu::avx512bf16},
    {"amx_tile", &Cpu::amx_tile},
    {"amx_int8", &Cpu::amx_int8},
    {"amx_bf16", &Cpu::amx_bf16},
    {"keeps_ymm", &Cpu::keeps_ymm},
    {"keeps_zmm", &Cpu::keeps_zmm},
    {"keeps_tiles", &Cpu::keeps_tiles},
    {"granted_tiles", &Cpu::granted_tiles},
};
static_assert(sizeof(Cpu) == std::size(kFlags), "a flag is not listed here");

std::string Names(const Cpu& cpu) {
  std::string names;
  for (const Flag& flag : kFlags) {
    if (cpu.*flag.bit) names += std::string(names.empty() ? "" : " ") + flag.name;
  }
  return names;
}

Cpu With(const std::vector<bool Cpu::*>& flags) {
  Cpu cpu;
  for (bool Cpu::*flag : flags) cpu.*flag = true;
  return cpu;
}

Cpu Everything() {
  Cpu cpu;
  for (const Flag& flag : kFlags) cpu.*flag.bit = true;
  return cpu;
}

// CPUs by what CPUID and the kernel say of them.
const std::vector<bool Cpu::*> kHaswell = {&Cpu::lzcnt, &Cpu::movbe, &Cpu::bmi1, &Cpu::bmi2,
                                           &Cpu::avx2,  &Cpu::fma,   &Cpu::f16c, &Cpu::keeps_ymm};

std::vector<bool Cpu::*> Plus(std::vector<bool Cpu::*> flags, const std::vector<bool Cpu::*>& more) {
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

const std::vector<bool Cpu::*> kAlderLake = Plus(kHaswell, {&Cpu::avx_vnni});
const std::vector<bool Cpu::*> kSkylakeServer =
    Plus(kHaswell,
         {&Cpu::avx512f, &Cpu::avx512bw, &Cpu::avx512cd, &Cpu::avx512dq, &Cpu::avx512vl, &Cpu::keeps_zmm});
const std::vector<bool Cpu::*> kCascadeLake = Plus(kSkylakeServer, {&Cpu::avx512vnni});
const std::vector<bool Cpu::*> kIceLake = Plus(kCascadeLake, {&Cpu::avx512vbmi});
const std::vector<bool Cpu::*> kSapphireRapids =
    Plus(kIceLake, {&Cpu::avx_vnni, &Cpu::avx512bf16, &Cpu::amx_tile, &Cpu::amx_int8, &Cpu::amx_bf16,
                    &Cpu::keeps_tiles, &Cpu::granted_tiles});

struct Variant {
  Isa isa;
  bool (*supports)(const Cpu& cpu);
  std::vector<bool Cpu::*> needs;
};

std::vector<Variant> Variants() {
  const std::vector<bool Cpu::*> avx2 = {&Cpu::avx2, &Cpu::fma, &Cpu::f16c, &Cpu::keeps_ymm};
  const auto avx512 = Plus(avx2, {&Cpu::avx512f, &Cpu::avx512bw, &Cpu::avx512vl, &Cpu::keeps_zmm});
  const auto vnni = Plus(avx512, {&Cpu::avx512vnni}), vbmi = Plus(vnni, {&Cpu::avx512vbmi});
  return {
      {Isa::kAvx2, SupportsAvx2, avx2},
      {Isa::kAvxVnni, SupportsAvxVnni, Plus(avx2, {&Cpu::avx_vnni})},
      {Isa::kAvx512, SupportsAvx512, avx512},
      {Isa::kAvx512Vnni, SupportsAvx512Vnni, vnni},
      {Isa::kAvx512Vbmi, SupportsAvx512Vbmi, vbmi},
      {Isa::kAmx, SupportsAmx,
       Plus(vbmi, {&Cpu::amx_tile, &Cpu::amx_int8, &Cpu::keeps_tiles, &Cpu::granted_tiles})},
  };
}

TEST(SupportsTest, NeedsEveryOneOfItsFlagsAndNoOther) {
  for (const Variant& v : Variants()) {
    EXPECT_TRUE(v.supports(With(v.needs))) << IsaName(v.isa);
    EXPECT_TRUE(v.supports(Everything())) << IsaName(v.isa);
    EXPECT_FALSE(v.supports(Cpu())) << IsaName(v.isa);
    for (const Flag& flag : kFlags) {
      Cpu cpu = Everything();
      cpu.*flag.bit = false;
      const bool needed = std::find(v.needs.begin(), v.needs.end(), flag.bit) != v.needs.end();
      EXPECT_EQ(v.supports(cpu), !needed) << IsaName(v.isa) << " without " << flag.name;
    }
  }
}

TEST(SupportsTest, EveryVariantIsAskedAboutHere) {
  EXPECT_EQ(Variants().size() + 1, std::size(kAllIsas)) << "the scalar one needs nothing";
}

TEST(ChooserTest, GivesEachCpuTheBestItCanRun) {
  if (kAvx2Ops.ternary == nullptr) GTEST_SKIP() << "this build has the scalar variant only";
  Cpu no_tiles = With(kSapphireRapids);
  no_tiles.granted_tiles = false;
  Cpu old_kernel = With(kSapphireRapids);
  old_kernel.keeps_zmm = old_kernel.keeps_tiles = old_kernel.granted_tiles = false;
  Cpu no_avx = With(kSapphireRapids);
  no_avx.keeps_ymm = no_avx.keeps_zmm = no_avx.keeps_tiles = no_avx.granted_tiles = false;
  const std::pair<Cpu, Isa> cases[] = {
      {Cpu(), Isa::kScalar},
      {With(kHaswell), Isa::kAvx2},
      {With(kAlderLake), Isa::kAvxVnni},
      {With(kSkylakeServer), Isa::kAvx512},
      {With(kCascadeLake), Isa::kAvx512Vnni},
      {With(kIceLake), Isa::kAvx512Vbmi},
      {With(kSapphireRapids), Isa::kAmx},
      {no_tiles, Isa::kAvx512Vbmi},
      {old_kernel, Isa::kAvxVnni},
      {no_avx, Isa::kScalar},
  };
  for (const auto& [cpu, best] : cases) {
    EXPECT_STREQ(IsaName(BestOps(cpu).isa), IsaName(best)) << Names(cpu);
    EXPECT_EQ(OpsFor(best, cpu), &BestOps(cpu));
  }
}

TEST(ChooserTest, ScalarRunsOnEveryCpu) {
  ASSERT_NE(OpsFor(Isa::kScalar, Cpu()), nullptr);
  EXPECT_EQ(OpsFor(Isa::kScalar, Cpu())->isa, Isa::kScalar);
  for (Isa isa : kAllIsas) {
    EXPECT_EQ(OpsFor(isa, Cpu()) != nullptr, isa == Isa::kScalar) << IsaName(isa);
  }
}

TEST(ChooserTest, OffersOfThisCpuWhatItSupports) {
  for (Isa isa : kAllIsas) EXPECT_EQ(OpsFor(isa), OpsFor(isa, ThisCpu())) << IsaName(isa);
}

struct RegisterBit {
  const char* name;
  uint32_t CpuRegisters::*word;
  int bit;
};

TEST(CpuFromTest, ReadsEachBitWhereTheManualsPutIt) {
  const RegisterBit bits[] = {
      {"fma", &CpuRegisters::leaf1_ecx, 12},         {"movbe", &CpuRegisters::leaf1_ecx, 22},
      {"f16c", &CpuRegisters::leaf1_ecx, 29},        {"lzcnt", &CpuRegisters::extended1_ecx, 5},
      {"bmi1", &CpuRegisters::leaf7_ebx, 3},         {"avx2", &CpuRegisters::leaf7_ebx, 5},
      {"bmi2", &CpuRegisters::leaf7_ebx, 8},         {"avx512f", &CpuRegisters::leaf7_ebx, 16},
      {"avx512dq", &CpuRegisters::leaf7_ebx, 17},    {"avx512cd", &CpuRegisters::leaf7_ebx, 28},
      {"avx512bw", &CpuRegisters::leaf7_ebx, 30},    {"avx512vl", &CpuRegisters::leaf7_ebx, 31},
      {"avx512vbmi", &CpuRegisters::leaf7_ecx, 1},   {"avx512vnni", &CpuRegisters::leaf7_ecx, 11},
      {"amx_bf16", &CpuRegisters::leaf7_edx, 22},    {"amx_tile", &CpuRegisters::leaf7_edx, 24},
      {"amx_int8", &CpuRegisters::leaf7_edx, 25},    {"avx_vnni", &CpuRegisters::leaf7_1_eax, 4},
      {"avx512bf16", &CpuRegisters::leaf7_1_eax, 5},
  };
  for (const RegisterBit& b : bits) {
    CpuRegisters registers;
    registers.*b.word = uint32_t{1} << b.bit;
    EXPECT_EQ(Names(CpuFrom(registers)), b.name);
  }
}

TEST(CpuFromTest, TakesRegistersAsKeptOnlyIfAllTheirPartsAre) {
  const std::pair<uint64_t, const char*> cases[] = {
      {0x1, ""},                         // the x87 unit's alone
      {0x3, ""},                         // and SSE's
      {0x5, ""},                         // AVX's upper halves without the lower
      {0x7, "keeps_ymm"},                // as on a CPU of AVX
      {0x67, "keeps_ymm"},               // the upper 16 ZMM registers missing
      {0xe7, "keeps_ymm keeps_zmm"},     // as on a CPU of AVX-512
      {0xe1, ""},                        // AVX-512's without AVX's
      {0x200e7, "keeps_ymm keeps_zmm"},  // the tiles' shapes without the tiles
      {0x400e7, "keeps_ymm keeps_zmm"},  // and the other way round
      {0x600e7, "keeps_ymm keeps_zmm keeps_tiles"},
  };
  for (const auto& [xcr0, names] : cases) {
    CpuRegisters registers;
    registers.xcr0 = xcr0;
    EXPECT_EQ(Names(CpuFrom(registers)), names) << std::hex << xcr0;
  }
}

TEST(CpuFromTest, HandsOnWhetherTheKernelGrantsTiles) {
  CpuRegisters registers;
  registers.granted_tiles = true;
  EXPECT_EQ(Names(CpuFrom(registers)), "granted_tiles");
}

#if defined(__x86_64__)
// libgcc asks the CPU in its own way.
TEST(ThisCpuTest, AgreesWithTheCompilersLibrary) {
  if (kAvx2Ops.ternary == nullptr) GTEST_SKIP() << "this build has the scalar variant only";
  __builtin_cpu_init();
  const Cpu& cpu = ThisCpu();
  EXPECT_EQ(cpu.avx2 && cpu.keeps_ymm, __builtin_cpu_supports("avx2") != 0);
  EXPECT_EQ(cpu.fma && cpu.keeps_ymm, __builtin_cpu_supports("fma") != 0);
  EXPECT_EQ(cpu.f16c && cpu.keeps_ymm, __builtin_cpu_supports("f16c") != 0);
  EXPECT_EQ(cpu.bmi2, __builtin_cpu_supports("bmi2") != 0);
  EXPECT_EQ(cpu.avx512f && cpu.keeps_zmm, __builtin_cpu_supports("avx512f") != 0);
  EXPECT_EQ(cpu.avx512bw && cpu.keeps_zmm, __builtin_cpu_supports("avx512bw") != 0);
  EXPECT_EQ(cpu.avx512dq && cpu.keeps_zmm, __builtin_cpu_supports("avx512dq") != 0);
  EXPECT_EQ(cpu.avx512vl && cpu.keeps_zmm, __builtin_cpu_supports("avx512vl") != 0);
  EXPECT_EQ(cpu.avx512vnni && cpu.keeps_zmm, __builtin_cpu_supports("avx512vnni") != 0);
  EXPECT_EQ(cpu.avx512vbmi && cpu.keeps_zmm, __builtin_cpu_supports("avx512vbmi") != 0);
  EXPECT_EQ(cpu.avx512bf16 && cpu.keeps_zmm, __builtin_cpu_supports("avx512bf16") != 0);
}
#endif

}  // namespace
}  // namespace omni::kernels
