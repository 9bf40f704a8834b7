#include "tests/testing/simulation/simulation.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/log_output.h"
#include "tests/testing/simulation/cluster.h"
#include "tests/testing/simulation/mischief.h"

namespace omni::simulation {
namespace {

thread_local Plant planted = Plant::kNone;
thread_local std::array<bool, static_cast<size_t>(Mark::kCount)> reached{};

constexpr milliseconds kPatience{10'000};  // of a run, after the last fault
constexpr int64_t kMostEvents = 400'000;

// The product's log, with the simulated time.
class TraceSink : public LogSink {
 public:
  explicit TraceSink(const World& world) : world_(world) {}
  void Write(const LogRecord& record) override { world_.Print("  log: " + LogMessage(record)); }

 private:
  const World& world_;
};

}  // namespace

void Reached(Mark mark) { reached[static_cast<size_t>(mark)] = true; }
bool Planted(Plant plant) { return planted == plant; }

#define OMNI_NAME(name) #name,
const char* NameOf(Mark mark) {
  static constexpr const char* kNames[] = {OMNI_MARKS(OMNI_NAME)};
  return kNames[static_cast<size_t>(mark)];
}
const char* NameOf(Plant plant) {
  static constexpr const char* kNames[] = {OMNI_PLANTS(OMNI_NAME)};
  return kNames[static_cast<size_t>(plant)];
}
#undef OMNI_NAME

SimulationResult Simulate(uint64_t seed, const SimulationOptions& options) {
  planted = options.plant;
  reached.fill(false);
  World world(seed);
  world.tracing = options.trace;
  std::optional<TraceSink> sink;
  if (options.trace) {
    ConfigureLog({.level = LogLevel::kInfo, .per_second = 1'000'000});
    SetLogSink(&sink.emplace(world));
  }
  SimulationResult result;
  const Time start = world.now();
  {
    Disks disks(world);
    Cluster cluster(world);
    Mischief mischief(cluster);
    mischief.Plan();
    std::optional<Time> quiet;
    Time next_look = start;
    while (world.failure().empty() && world.RunOne()) {
      cluster.Check();
      if (world.events() > kMostEvents) world.Fail("it does not come to an end: too many events");
      if (!mischief.over()) continue;
      if (!quiet.has_value()) quiet = world.now();
      if (world.now() < next_look) continue;
      next_look = world.now() + milliseconds(20);
      const std::string missing = cluster.Missing();
      if (missing.empty()) break;
      if (world.now() - *quiet > kPatience) world.Fail("it does not come to an end: " + missing);
    }
    result.tokens = cluster.tokens();
    if (quiet.has_value()) result.settling = std::chrono::duration_cast<milliseconds>(world.now() - *quiet);
  }
  if (options.trace) SetLogSink(nullptr);
  result.failure = world.failure();
  result.faults = world.counts();
  result.marks = reached;
  result.events = world.events();
  result.simulated = std::chrono::duration_cast<milliseconds>(world.now() - start);
  planted = Plant::kNone;
  return result;
}

}  // namespace omni::simulation
