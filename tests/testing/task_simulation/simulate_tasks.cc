// usage: simulate_tasks [--seeds N] [--first N] [--seed N] [--trace] [--plant NAME]. Runs seeds of the
// simulated task server; a seed that fails is named with what failed and the command that replays it.
// scripts/faults.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "engine/base/log_output.h"
#include "tests/testing/task_simulation/task_simulation.h"

namespace omni::simulation {
namespace {

// What goes wrong is what it is about.
class Silence : public LogSink {
  void Write(const LogRecord&) override {}
};

int Usage() {
  std::fprintf(stderr, "usage: simulate_tasks [--seeds N] [--first N] [--seed N] [--trace] [--plant NAME]\n");
  return 2;
}

int Main(int argc, char** argv) {
  uint64_t first = 1, seeds = 10'000;
  TaskSimulationOptions options;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--trace") {
      options.trace = true;
      continue;
    }
    if (++i == argc) return Usage();
    if (arg == "--plant") {
      for (int p = 0; p < static_cast<int>(TaskPlant::kCount); ++p) {
        if (std::strcmp(NameOf(static_cast<TaskPlant>(p)), argv[i]) == 0)
          options.plant = static_cast<TaskPlant>(p);
      }
      if (options.plant == TaskPlant::kNone) return Usage();
      continue;
    }
    const uint64_t value = std::strtoull(argv[i], nullptr, 10);
    if (arg == "--seeds") {
      seeds = value;
    } else if (arg == "--first") {
      first = value;
    } else if (arg == "--seed") {
      first = value;
      seeds = 1;
    } else {
      return Usage();
    }
  }
  if (seeds == 0) return Usage();
  Silence silence;
  if (!options.trace) SetLogSink(&silence);
  const auto start = std::chrono::steady_clock::now();
  TaskFaultCounts faults{};
  std::array<int64_t, static_cast<size_t>(TaskMark::kCount)> marks{};
  int64_t failed = 0, events = 0, tasks = 0;
  double simulated = 0;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    const TaskSimulationResult result = SimulateTasks(seed, options);
    for (size_t i = 0; i < faults.size(); ++i) faults[i] += result.faults[i];
    for (size_t i = 0; i < marks.size(); ++i) marks[i] += result.marks[i];
    events += result.events;
    tasks += result.tasks;
    simulated += static_cast<double>(result.simulated.count()) / 1e3;
    if (result.failure.empty()) continue;
    std::printf("seed %llu: %s\n  replay: scripts/faults --tasks --seed %llu --trace\n",
                static_cast<unsigned long long>(seed), result.failure.c_str(),
                static_cast<unsigned long long>(seed));
    if (++failed == 10) break;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf(
      "%llu seeds, %lld failed; %.1f s, in which %.0f s of the server's time, %lld events, %lld tasks\n",
      static_cast<unsigned long long>(seeds), static_cast<long long>(failed), seconds, simulated,
      static_cast<long long>(events), static_cast<long long>(tasks));
  for (size_t i = 0; i < faults.size(); ++i)
    std::printf("  fault %-20s %lld\n", NameOf(static_cast<TaskFault>(i)), static_cast<long long>(faults[i]));
  int missed = 0;
  for (size_t i = 0; i < marks.size(); ++i) {
    std::printf("  mark  %-32s %lld\n", NameOf(static_cast<TaskMark>(i)), static_cast<long long>(marks[i]));
    missed += marks[i] == 0;
  }
  if (missed > 0) std::printf("%d marked branches were never reached\n", missed);
  return failed > 0 ? 1 : 0;
}

}  // namespace
}  // namespace omni::simulation

int main(int argc, char** argv) { return omni::simulation::Main(argc, argv); }
