#include "engine/decode/isa_log.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/testing/recording_log.h"

namespace omni {
namespace {

using kernels::Cpu;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using testing::RecordingLog;
using ::testing::StartsWith;

// Has everything up to AMX.
Cpu FullCpu() {
  Cpu cpu;
  cpu.avx2 = cpu.fma = cpu.f16c = cpu.avx_vnni = true;
  cpu.avx512f = cpu.avx512bw = cpu.avx512vl = cpu.avx512vnni = cpu.avx512vbmi = true;
  cpu.amx_tile = cpu.amx_int8 = true;
  cpu.keeps_ymm = cpu.keeps_zmm = cpu.keeps_tiles = cpu.granted_tiles = true;
  return cpu;
}

TEST(IsaLog, SaysWhatComputesAndNothingElseWhereAllIsWell) {
  const RecordingLog log;
  LogIsa(nullptr, FullCpu(), kernels::BestOps(FullCpu()));
  ASSERT_EQ(log.lines().size(), 1u);
  EXPECT_THAT(log.Messages("isa_chosen"), ElementsAre("computing with amx"));
}

TEST(IsaLog, SaysWhatTheSystemKeepsTheCpuFromUsing) {
  const RecordingLog log;
  Cpu cpu = FullCpu();
  cpu.granted_tiles = false;
  LogIsa(nullptr, cpu, kernels::BestOps(cpu));
  cpu.keeps_zmm = false;
  LogIsa(nullptr, cpu, kernels::BestOps(cpu));
  EXPECT_THAT(log.Messages("isa_not_granted"),
              ElementsAre("the CPU has amx, but the system does not let it be used; avx512vbmi is used",
                          "the CPU has amx, but the system does not let it be used; avxvnni is used"));
}

TEST(IsaLog, SaysWhichOtherThanTheWantedOneIsUsed) {
  const RecordingLog log;
  const std::string active = kernels::IsaName(kernels::ActiveOps().isa);
  LogIsa("sse9");
  LogIsa(active.c_str());
  LogIsa("");
  EXPECT_THAT(log.Messages("isa_refused"),
              ElementsAre(AllOf(StartsWith("OMNI_ISA=sse9: this CPU and build have scalar"),
                                EndsWith("; " + active + " is used"))));
}

}  // namespace
}  // namespace omni
