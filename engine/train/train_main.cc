#include "engine/train/train_main.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "engine/base/interrupt.h"
#include "engine/train/flags.h"
#include "engine/train/trainer.h"
#include "kernels/cpu.h"

namespace omni {
namespace {

constexpr int kExitOk = 0, kExitFailure = 1, kExitUsage = 2, kExitInterrupted = 130;

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

std::string Joined(const std::vector<std::string>& words) {
  std::string out = "omni-train";
  for (const std::string& word : words) out += " " + word;
  return out;
}

// One line, whatever the message was made of.
int Report(const std::string& message, int code) {
  std::string line;
  for (char c : message) line += c == '\n' || c == '\r' ? ' ' : c;
  std::fprintf(stderr, "omni train: %s\n", line.c_str());
  return code;
}

int Print(const std::string& text) {
  const bool written =
      std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (written) return kExitOk;
  return Report(std::string("standard output: cannot be written: ") + std::strerror(errno), kExitFailure);
}

int RunTrainer(char** argv, const std::vector<std::string>& arguments) {
  absl::StatusOr<train::CommandLine> line =
      train::ParseCommandLine(arguments, [](const std::string& name) { return std::getenv(name.c_str()); });
  if (!line.ok()) {
    return Report(std::string(line.status().message()) + " (see omni train --help)", kExitUsage);
  }
  if (line->help) return Print(*line->help);
  TuneLibraries(argv);
  line->settings.command = Joined(arguments);
  const InterruptGuard interrupt;
  const absl::Status status = train::Train(line->settings, InterruptGuard::Requested);
  if (status.ok()) return kExitOk;
  return Report(std::string(status.message()), absl::IsCancelled(status) ? kExitInterrupted : kExitFailure);
}

}  // namespace

int TrainMain(int argc, char** argv) {
  try {
    // Large tensors are made and freed every step: keep them out of mmap.
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 2047 << 20);
    return RunTrainer(argv, {argv + std::min(argc, 1), argv + argc});
  } catch (const std::exception& e) {
    return Report(e.what(), kExitFailure);
  } catch (...) {
    return Report("ended by an error without a name", kExitFailure);
  }
}

}  // namespace omni

int main(int argc, char** argv) { return omni::TrainMain(argc, argv); }
