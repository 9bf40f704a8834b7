// What befalls a simulated task server and those who use it.
#pragma once

#include <array>
#include <cstdint>

#include "tests/testing/simulation/world.h"

namespace omni::simulation {

#define OMNI_TASK_FAULTS(X) \
  X(killed)                 \
  X(killed_before_write)    \
  X(killed_after_write)     \
  X(killed_while_telling)   \
  X(failed_write_lost)      \
  X(failed_write_kept)      \
  X(disk_full)              \
  X(read_failed)            \
  X(call_lost)              \
  X(answer_lost)            \
  X(node_paused)            \
  X(node_died)              \
  X(node_replaced)          \
  X(clock_jumped)           \
  X(clock_set_back)
#define OMNI_NAME(name) name,
enum class TaskFault { OMNI_TASK_FAULTS(OMNI_NAME) kCount };
#undef OMNI_NAME
using TaskFaultCounts = std::array<int64_t, static_cast<size_t>(TaskFault::kCount)>;

// How bad it is at present; all 0: all is well.
struct Trouble {
  double kill = 0;            // share of the rounds in which the server is killed
  double write = 0;           // of the writes that fail
  double read = 0;            // of the reads that fail
  double lost = 0;            // of the calls, and of their answers, that are lost
  bool full = false;          // the disk
  bool quiet = false;         // nobody hands in anything any more
  double pause = 0, die = 0;  // of a node's steps
};

// What all parts of one simulation share.
struct TaskWorld {
  explicit TaskWorld(uint64_t seed) : world(seed) {}
  void Count(TaskFault fault) { ++faults[static_cast<size_t>(fault)]; }
  bool Chance(double share) { return share > 0 && world.chance().Of(share); }
  int64_t Below(int64_t n) { return world.chance().Below(n); }
  void After(milliseconds delay, std::function<void()> f) { world.At(delay, nullptr, std::move(f)); }
  // One that is drawn from a range.
  milliseconds Between(int64_t least, int64_t most) { return milliseconds(least + Below(most - least + 1)); }

  World world;
  Trouble trouble;
  TaskFaultCounts faults{};
};

}  // namespace omni::simulation
