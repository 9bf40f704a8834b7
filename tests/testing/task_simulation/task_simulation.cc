#include "tests/testing/task_simulation/task_simulation.h"

#include <deque>
#include <memory>

#include "tests/testing/task_simulation/caller.h"
#include "tests/testing/task_simulation/check_records.h"
#include "tests/testing/task_simulation/executor_node.h"
#include "tests/testing/task_simulation/task_server.h"

namespace omni::simulation {
namespace {

thread_local TaskPlant planted = TaskPlant::kNone;
thread_local std::array<bool, static_cast<size_t>(TaskMark::kCount)> reached{};

constexpr milliseconds kPatience = std::chrono::hours(3);  // after the last fault
constexpr int64_t kMostEvents = 200'000;

// Each sort of trouble comes in some seeds only, so that the others are seen undisturbed, too.
Trouble DrawTrouble(TaskWorld& world) {
  Trouble trouble;
  if (world.Chance(0.7)) trouble.kill = 0.04;
  if (world.Chance(0.4)) trouble.write = 0.05;
  if (world.Chance(0.2)) trouble.read = 0.002;
  if (world.Chance(0.6)) trouble.lost = 0.1;
  if (world.Chance(0.6)) trouble.pause = 0.06;
  if (world.Chance(0.6)) trouble.die = 0.02;
  return trouble;
}

void PlanFullDisk(TaskWorld& world) {
  world.After(world.Between(1000, 60'000), [&world] {
    if (world.trouble.quiet) return;
    world.trouble.full = true;
    world.After(world.Between(100, 8000), [&world] { world.trouble.full = false; });
  });
}

void PlanJumps(TaskWorld& world, TaskServer& server) {
  world.After(world.Between(5000, 60'000), [&world, &server] {
    if (world.trouble.quiet) return;
    world.Count(TaskFault::clock_jumped);
    server.SetClock(world.Between(1000, world.Chance(0.3) ? 600'000 : 30'000));
    PlanJumps(world, server);
  });
}

}  // namespace

void Reached(TaskMark mark) { reached[static_cast<size_t>(mark)] = true; }
bool Planted(TaskPlant plant) { return planted == plant; }

#define OMNI_NAME(name) #name,
const char* NameOf(TaskMark mark) {
  static constexpr const char* kNames[] = {OMNI_TASK_MARKS(OMNI_NAME)};
  return kNames[static_cast<size_t>(mark)];
}
const char* NameOf(TaskPlant plant) {
  static constexpr const char* kNames[] = {OMNI_TASK_PLANTS(OMNI_NAME)};
  return kNames[static_cast<size_t>(plant)];
}
const char* NameOf(TaskFault fault) {
  static constexpr const char* kNames[] = {OMNI_TASK_FAULTS(OMNI_NAME)};
  return kNames[static_cast<size_t>(fault)];
}
#undef OMNI_NAME

TaskSimulationResult SimulateTasks(uint64_t seed, const TaskSimulationOptions& options) {
  planted = options.plant;
  reached.fill(false);
  TaskWorld world(seed);
  world.world.tracing = options.trace;
  const Time start = world.world.now();
  world.trouble = DrawTrouble(world);
  if (world.Chance(0.3)) PlanFullDisk(world);
  TaskSimulationResult result;
  {
    TaskServer server(world);
    std::deque<Caller> callers;
    std::deque<ExecutorNode> nodes;
    for (const char* name : {"anna", "bert", "carl"}) callers.emplace_back(world, server, name).Start();
    for (int n = 0; n < 3; ++n) nodes.emplace_back(world, server, absl::StrCat("node", n)).Start();
    server.Start();
    if (world.Chance(0.5)) PlanJumps(world, server);
    world.After(world.Between(20'000, 120'000), [&world] {
      world.trouble = {.quiet = true};
      world.world.Trace("from now on all is well");
    });
    std::optional<Time> quiet;
    bool aged = false;
    Time next_look = start;
    while (world.world.failure().empty() && world.world.RunOne()) {
      if (world.world.events() > kMostEvents) world.world.Fail("it does not come to an end: too many events");
      if (!world.trouble.quiet) continue;
      if (!quiet.has_value()) quiet = world.world.now();
      if (world.world.now() < next_look) continue;
      next_look = world.world.now() + milliseconds(500);
      std::string missing = server.up() ? "" : "the server is down";
      for (Caller& caller : callers)
        if (missing.empty()) missing = caller.Missing();
      if (missing.empty() && server.oracle().live() > 0)
        missing = absl::StrCat(server.oracle().live(), " tasks are not over");
      if (missing.empty() && !aged) {
        // What is kept for an hour goes then, and nothing is left.
        const std::string problem = ProblemOf(server.store().records());
        if (!problem.empty()) world.world.Fail(problem);
        aged = true;
        server.SetClock(2 * TaskServer::kRetain);
        continue;
      }
      if (missing.empty() && !server.store().records().empty())
        missing = absl::StrCat(server.store().records().begin()->first, " is left");
      if (missing.empty()) break;
      if (world.world.now() - *quiet > kPatience) {
        world.world.Fail(absl::StrCat("it does not come to an end: ", missing));
      }
    }
    result.tasks = static_cast<int64_t>(server.oracle().tasks().size());
    for (const Caller& caller : callers)
      result.acknowledged += static_cast<int64_t>(caller.acknowledged().size());
  }
  result.failure = world.world.failure();
  result.faults = world.faults;
  result.marks = reached;
  result.events = world.world.events();
  result.simulated = std::chrono::duration_cast<milliseconds>(world.world.now() - start);
  planted = TaskPlant::kNone;
  return result;
}

}  // namespace omni::simulation
