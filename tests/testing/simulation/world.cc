#include "tests/testing/simulation/world.h"

#include <algorithm>
#include <cstdio>

#include "engine/base/simulated.h"

namespace omni::simulation {

const char* NameOf(FaultKind kind) {
#define OMNI_NAME(name) #name,
  static constexpr const char* kNames[] = {OMNI_FAULTS(OMNI_NAME)};
#undef OMNI_NAME
  return kNames[static_cast<size_t>(kind)];
}

void World::Push(Event event) {
  heap_.push_back(std::move(event));
  std::push_heap(heap_.begin(), heap_.end(), Later);
}

void World::At(Duration delay, Process* process, std::function<void()> f) {
  Push({now_ + delay, static_cast<uint32_t>(chance_.Next()), next_++, process,
        process == nullptr ? 0 : process->incarnation_, std::move(f)});
}

bool World::RunOne() {
  if (heap_.empty()) return false;
  std::pop_heap(heap_.begin(), heap_.end(), Later);
  Event event = std::move(heap_.back());
  heap_.pop_back();
  now_ = std::max(now_, event.time);
  ++events_;
  if (Process* process = event.process) {
    if (process->incarnation_ != event.incarnation) return true;
    if (process->paused_) {
      process->held_.push_back(std::move(event));
      return true;
    }
  }
  event.run();
  return true;
}

void World::Print(const std::string& line) const {
  const auto us = std::chrono::duration_cast<microseconds>(now_ - Time(std::chrono::hours(1))).count();
  std::printf("%10.3f ms  %s\n", static_cast<double>(us) / 1e3, line.c_str());
}

void Process::Start() {
  up_ = true;
  paused_ = false;
  ++incarnation_;
  world.Trace(name, " starts");
  OnStart();
}

void Process::Kill(bool power) {
  if (!up_) return;
  world.Trace(name, power ? " loses its power" : " is killed");
  up_ = paused_ = false;
  ++incarnation_;
  held_.clear();
  OnKill(power);
}

void Process::Pause() {
  if (!up_) return;
  world.Trace(name, " is stopped");
  paused_ = true;
}

void Process::Wake() {
  if (!paused_) return;
  world.Trace(name, " goes on");
  paused_ = false;
  Time time = world.now_;
  for (World::Event& event : std::exchange(held_, {})) {
    event.time = time += Duration(1);  // in the order in which they came
    world.Push(std::move(event));
  }
}

void Process::SetRate(double rate) {
  clock_from_ = Clock();
  rate_from_ = world.now();
  rate_ = rate;
}

void Mailbox::Post(std::function<void()> f) {
  Duration delay(1'000 + process_.world.chance().Below(20'000));
  Time time = process_.world.now() + process_.Work(delay);
  // One after another; an event of the same time would be in drawn order.
  if (time <= last_) time = last_ + Duration(1);
  last_ = time;
  process_.At(time - process_.world.now(), [alive = alive_, f = std::move(f)] {
    if (*alive) f();
  });
}

}  // namespace omni::simulation
