// Simulated time: one thread, one queue of events, one source of chance. A seed is the whole run.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "engine/base/splitmix.h"

namespace omni::simulation {

using Time = std::chrono::steady_clock::time_point;
using Duration = std::chrono::nanoseconds;
using std::chrono::microseconds;
using std::chrono::milliseconds;

class Chance {
 public:
  explicit Chance(uint64_t seed) : seed_(seed) {}
  uint64_t Next() { return CounterRandom(seed_, counter_++); }
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }
  bool Of(double share) { return static_cast<double>(Next() >> 11) * 0x1p-53 < share; }
  Duration Between(Duration least, Duration most) {
    return least + Duration(Below((most - least).count() + 1));
  }

 private:
  const uint64_t seed_;
  uint64_t counter_ = 0;
};

// What is done to the cluster, each counted.
#define OMNI_FAULTS(X)   \
  X(drop)                \
  X(half_open)           \
  X(delay)               \
  X(reorder)             \
  X(duplicate)           \
  X(cut)                 \
  X(one_way_cut)         \
  X(kill)                \
  X(kill_in_recovery)    \
  X(power_cut)           \
  X(pause)               \
  X(clock_jump)          \
  X(clock_drift)         \
  X(slow_node)           \
  X(disk_error)          \
  X(unsynced_write_lost) \
  X(expert_error)        \
  X(store_unavailable)   \
  X(store_call_lost)     \
  X(store_answer_lost)   \
  X(store_call_late)     \
  X(store_restart)       \
  X(client_gone)         \
  X(records_lost)        \
  X(operator_act)
#define OMNI_NAME(name) name,
enum class FaultKind { OMNI_FAULTS(OMNI_NAME) kCount };
#undef OMNI_NAME
const char* NameOf(FaultKind kind);
using FaultCounts = std::array<int64_t, static_cast<size_t>(FaultKind::kCount)>;

class Process;

class World {
 public:
  explicit World(uint64_t seed) : chance_(seed) {}

  Time now() const { return now_; }
  Chance& chance() { return chance_; }
  // Runs `f` then, unless `process` has been killed by then; while it is paused, when it wakes. Null: always.
  void At(Duration delay, Process* process, std::function<void()> f);
  bool RunOne();  // false: nothing is left

  void Count(FaultKind kind) { ++counts_[static_cast<size_t>(kind)]; }
  const FaultCounts& counts() const { return counts_; }

  // What must never be. The first is kept; the run ends with it.
  void Fail(std::string what) {
    if (failure_.empty()) failure_ = std::move(what);
  }
  const std::string& failure() const { return failure_; }
  int64_t events() const { return events_; }

  bool tracing = false;
  template <typename... T>
  void Trace(const T&... parts) {
    if (tracing) Print(absl::StrCat(parts...));
  }
  void Print(const std::string& line) const;

 private:
  friend class Process;
  struct Event {
    Time time;
    uint32_t tie = 0;  // drawn: what happens at the same time has no order
    uint64_t number = 0;
    Process* process = nullptr;
    int64_t incarnation = 0;
    std::function<void()> run;
  };
  static bool Later(const Event& a, const Event& b) {
    if (a.time != b.time) return a.time > b.time;
    if (a.tie != b.tie) return a.tie > b.tie;
    return a.number > b.number;
  }
  void Push(Event event);

  Chance chance_;
  Time now_{std::chrono::hours(1)};
  std::vector<Event> heap_;
  uint64_t next_ = 0;
  int64_t events_ = 0;
  std::string failure_;
  FaultCounts counts_{};
};

// A process of a machine of its own: its clock, whether it runs, how fast.
class Process {
 public:
  Process(World& world, std::string name) : world(world), name(std::move(name)) {}
  virtual ~Process() = default;

  void Start();
  void Kill(bool power);  // power: with what its disk had not synced
  void Pause();
  void Wake();
  bool up() const { return up_; }
  bool paused() const { return paused_; }
  int64_t incarnation() const { return incarnation_; }

  Time Clock() const {
    const double own = static_cast<double>((world.now() - rate_from_).count()) * rate_;
    return clock_from_ + Duration(static_cast<int64_t>(own));
  }
  Duration ToWorld(Duration own) const {
    return Duration(static_cast<int64_t>(static_cast<double>(own.count()) / rate_) + 1);
  }
  void JumpClock(Duration ahead) { clock_from_ += ahead; }
  void SetRate(double rate);  // of its clock
  void At(Duration delay, std::function<void()> f) { world.At(delay, this, std::move(f)); }
  // By its own clock.
  void AtOwn(Duration delay, std::function<void()> f) { world.At(ToWorld(delay), this, std::move(f)); }
  // As long as something takes of its processors.
  Duration Work(Duration time) const {
    return Duration(static_cast<int64_t>(static_cast<double>(time.count()) * slow));
  }

  World& world;
  const std::string name;
  double slow = 1;

 protected:
  virtual void OnStart() = 0;
  virtual void OnKill(bool power) = 0;

 private:
  friend class World;
  bool up_ = false, paused_ = false;
  int64_t incarnation_ = 0;
  Time clock_from_{std::chrono::hours(1)}, rate_from_{std::chrono::hours(1)};
  double rate_ = 1;
  std::deque<World::Event> held_;  // while it is paused
};

// An actor's: what is posted is done later, in the order in which it was posted.
class Mailbox {
 public:
  explicit Mailbox(Process& process) : process_(process) {}
  ~Mailbox() { *alive_ = false; }
  void Post(std::function<void()> f);

 private:
  Process& process_;
  Time last_{};
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace omni::simulation
