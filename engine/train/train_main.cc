// The `omni-train` program.
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/train/train_program.h"
#include "engine/train/trainer.h"
#include "kernels/cpu.h"

namespace omni {
namespace {

// OpenBLAS and ATen choose their kernels when they are loaded, and take newer AVX-512 machines for older
// ones; idle OpenMP threads would spin. All three are told by environment, so the program starts itself once
// more with it.
void TuneLibraries(char** argv) {
  if (std::getenv("OMNI_TRAIN_TUNED")) return;
  const kernels::Cpu& cpu = kernels::ThisCpu();
  if (cpu.keeps_zmm && cpu.avx512f && cpu.avx512bw && cpu.avx512dq) {
    setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
    setenv("ATEN_CPU_CAPABILITY", "avx512", 0);
  }
  setenv("GOMP_SPINCOUNT", "0", 0);
  setenv("OMNI_TRAIN_TUNED", "1", 1);
  execv("/proc/self/exe", argv);  // if this fails, the run is only slower
}

}  // namespace
}  // namespace omni

int main(int argc, char** argv) {
  // Large tensors are made and freed every step: keep them out of mmap.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 2047 << 20);
  return omni::train::TrainProgram(
      "omni-train", {argv + std::min(argc, 1), argv + argc}, [argv] { omni::TuneLibraries(argv); },
      omni::train::Train);
}
