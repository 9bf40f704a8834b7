#include "tests/testing/simt.h"

#include <algorithm>
#include <array>
#include <boost/context/fiber.hpp>
#include <boost/context/fixedsize_stack.hpp>
#include <cstdlib>
#include <numeric>

namespace omni::simt {

Place current;

namespace {

namespace context = boost::context;
constexpr size_t kStack = 64 << 10;

struct GivenUp {};  // unwinds a fiber whose launch has failed

struct Thread {
  context::fiber fiber;  // the thread, while it waits
  Place place;
  Meeting meeting = Meeting::kNone;  // what it waits for
  bool started = false, done = false;
  unsigned mask = 0;
  uint64_t value = 0, result = 0;
  int source_lane = 0;
  std::source_location at;
};

struct Block {
  std::vector<std::unique_ptr<Thread>> threads;
  int count = 0;
  std::vector<int> order;
  std::vector<std::unique_ptr<SharedMemory>> shared;
  std::vector<std::source_location> shared_at;
  int64_t dynamic_bytes = 0;
  int64_t epoch = 1;
  std::array<int64_t, kMaxThreads / kWarp> warp_epoch = {};
  const std::function<void()>* run = nullptr;
  bool failed = false;
};

Block block;
Thread* running = nullptr;
context::fiber scheduler;  // while a thread runs
std::vector<std::string> faults;
Order order = Order::kAscending;
uint64_t order_state = 1;
int64_t launch_count = 0;
const char* planted = nullptr;
bool plant_reached = false;

std::string Where(const std::source_location& at) {
  std::string file = at.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(at.line());
}

std::string Name(const Place& p) {
  return "block (" + std::to_string(p.block.x) + ", " + std::to_string(p.block.y) + ", " +
         std::to_string(p.block.z) + ") thread " + std::to_string(p.linear);
}

void Record(const std::string& what) {
  if (!block.failed) faults.push_back(what);
  block.failed = true;
}

// The life of a fiber: one block after the other.
context::fiber Live(Thread* thread, context::fiber&& back) {
  scheduler = std::move(back);
  for (;;) {
    try {
      (*block.run)();
    } catch (const GivenUp&) {
    }
    thread->done = true;
    scheduler = std::move(scheduler).resume();
  }
}

void Resume(Thread& thread) {
  running = &thread;
  current = thread.place;
  if (!thread.fiber) {
    thread.fiber = context::fiber(std::allocator_arg, context::fixedsize_stack(kStack),
                                  [t = &thread](context::fiber&& back) { return Live(t, std::move(back)); });
  }
  thread.fiber = std::move(thread.fiber).resume();
}

// From a thread: until its meeting has been held.
void Wait() {
  Thread& thread = *running;
  scheduler = std::move(scheduler).resume();
  if (block.failed) throw GivenUp();
  current = thread.place;
}

const char* MeetingName(Meeting meeting) {
  switch (meeting) {
    case Meeting::kBarrier:
      return "__syncthreads";
    case Meeting::kSyncWarp:
      return "__syncwarp";
    case Meeting::kShuffle:
      return "a shuffle";
    case Meeting::kBallot:
      return "a ballot";
    case Meeting::kSum:
    case Meeting::kMax:
      return "a reduction";
    case Meeting::kNone:
      break;
  }
  return "nothing";
}

bool SameMeeting(const Thread& a, const Thread& b) {
  return a.meeting == b.meeting && a.mask == b.mask && a.at.line() == b.at.line() &&
         std::strcmp(a.at.file_name(), b.at.file_name()) == 0;
}

void Hold(int warp, const Thread& caller) {
  const auto lane_of = [&](int lane) -> Thread& { return *block.threads[warp * kWarp + lane]; };
  uint64_t ballot = 0;
  int64_t sum = 0;
  unsigned largest = 0;
  const unsigned mask = caller.mask;
  for (int lane = 0; lane < kWarp; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const uint64_t value = lane_of(lane).value;
    ballot |= (value & 1) << lane;
    sum += FromBits<int>(value);
    largest = std::max(largest, FromBits<unsigned>(value));
  }
  const Meeting meeting = caller.meeting;
  for (int lane = 0; lane < kWarp; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    Thread& thread = lane_of(lane);
    if (meeting == Meeting::kShuffle) {
      if ((mask >> thread.source_lane & 1) == 0) {
        Record(Name(thread.place) + ": a shuffle at " + Where(thread.at) + " takes from lane " +
               std::to_string(thread.source_lane) + ", which its mask lacks");
        return;
      }
      thread.result = lane_of(thread.source_lane).value;
    } else if (meeting == Meeting::kBallot) {
      thread.result = ballot;
    } else if (meeting == Meeting::kSum) {
      thread.result = Bits(static_cast<int>(sum));
    } else if (meeting == Meeting::kMax) {
      thread.result = Bits(largest);
    }
  }
  if (meeting == Meeting::kSyncWarp) ++block.warp_epoch[warp];
  for (int lane = 0; lane < kWarp; ++lane) {
    if (mask >> lane & 1) lane_of(lane).meeting = Meeting::kNone;
  }
}

// Holds the meetings of warps that are complete; true if there were any.
bool HoldMeetings() {
  bool held = false;
  for (int i = 0; i < block.count && !block.failed; ++i) {
    Thread& thread = *block.threads[i];
    if (thread.done || thread.meeting == Meeting::kNone || thread.meeting == Meeting::kBarrier) continue;
    const int warp = i / kWarp;
    bool complete = true;
    for (int lane = 0; lane < kWarp; ++lane) {
      if ((thread.mask >> lane & 1) == 0) continue;
      const Thread& other = *block.threads[warp * kWarp + lane];
      complete = complete && !other.done && SameMeeting(thread, other);
    }
    if (!complete) continue;
    Hold(warp, thread);
    held = true;
  }
  return held;
}

void RecordStuck() {
  const Thread *waiting = nullptr, *other = nullptr;
  for (int i = 0; i < block.count; ++i) {
    const Thread& thread = *block.threads[i];
    if (thread.done) continue;
    if (waiting == nullptr || (waiting->meeting == Meeting::kBarrier && thread.meeting != Meeting::kBarrier))
      waiting = &thread;
  }
  const bool barrier = waiting->meeting == Meeting::kBarrier;
  const int first = barrier ? 0 : waiting->place.warp * kWarp, last = barrier ? block.count : first + kWarp;
  for (int i = first; i < last; ++i) {
    const Thread& thread = *block.threads[i];
    const bool wanted = barrier || (waiting->mask >> (i - first) & 1);
    if (wanted && (thread.done || !SameMeeting(*waiting, thread))) other = &thread;
  }
  std::string what = Name(waiting->place) + ": " + MeetingName(waiting->meeting) + " at " +
                     Where(waiting->at) + " waits in vain";
  if (other != nullptr) {
    what += other->done ? "; thread " + std::to_string(other->place.linear) + " has ended"
                        : "; thread " + std::to_string(other->place.linear) + " is at " +
                              MeetingName(other->meeting) + " at " + Where(other->at) +
                              (other->mask != waiting->mask ? " with another mask" : "");
  }
  Record(what);
}

void MixOrder() {
  block.order.resize(block.count);
  std::iota(block.order.begin(), block.order.end(), 0);
  if (order == Order::kDescending) std::reverse(block.order.begin(), block.order.end());
  if (order != Order::kShuffled) return;
  for (int i = block.count - 1; i > 0; --i) {
    order_state = order_state * 6364136223846793005u + 1442695040888963407u;
    std::swap(block.order[i], block.order[(order_state >> 33) % static_cast<unsigned>(i + 1)]);
  }
}

void RunBlock(dim3 index, dim3 size, dim3 grid) {
  for (int i = 0; i < block.count; ++i) {
    Thread& thread = *block.threads[i];
    const auto u = static_cast<unsigned>(i);
    thread.place = {
        {u % size.x, u / size.x % size.y, u / size.x / size.y}, index, size, grid, i % kWarp, i / kWarp, i};
    thread.done = false;
    thread.meeting = Meeting::kNone;
  }
  block.shared.clear();
  block.shared_at.clear();
  block.epoch = 1;
  block.warp_epoch.fill(1);
  MixOrder();
  for (;;) {
    bool all_done = true, at_barrier = true;
    for (int i : block.order) {
      Thread& thread = *block.threads[i];
      if (!thread.done && thread.meeting == Meeting::kNone) Resume(thread);
      if (block.failed) return;
      all_done = all_done && thread.done;
    }
    if (all_done) return;
    if (HoldMeetings()) {
      if (block.failed) return;
      continue;
    }
    const Thread& first = *block.threads[0];
    for (int i = 0; i < block.count; ++i) {
      const Thread& thread = *block.threads[i];
      at_barrier =
          at_barrier && !thread.done && thread.meeting == Meeting::kBarrier && SameMeeting(first, thread);
    }
    if (!at_barrier) {
      RecordStuck();
      return;
    }
    ++block.epoch;
    for (int i = 0; i < block.count; ++i) block.threads[i]->meeting = Meeting::kNone;
  }
}

}  // namespace

void SetOrder(Order new_order) { order = new_order; }
std::vector<std::string> TakeFaults() { return std::exchange(faults, {}); }
void ClearFaults() { faults.clear(); }
int64_t launches() { return launch_count; }

void Plant(const char* name) {
  planted = name;
  plant_reached = false;
}
bool IsPlanted(const char* name) {
  const bool is = planted != nullptr && std::strcmp(planted, name) == 0;
  plant_reached = plant_reached || is;
  return is;
}
bool PlantReached() { return plant_reached; }

void Fault(const std::string& what, std::source_location at) {
  Record(Name(current) + ": " + what + " at " + Where(at));
  throw GivenUp();
}

void Launch(dim3 grid, dim3 size, int64_t dynamic_bytes, const std::function<void()>& thread) {
  ++launch_count;
  block.failed = false;
  const int64_t count = int64_t{size.x} * size.y * size.z;
  if (count == 0 || count % kWarp != 0 || count > kMaxThreads || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.y > 65535 || grid.z > 65535) {
    Record("a launch of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
           std::to_string(grid.z) + " blocks of " + std::to_string(count) + " threads");
    return;
  }
  block.count = static_cast<int>(count);
  while (static_cast<int64_t>(block.threads.size()) < count)
    block.threads.push_back(std::make_unique<Thread>());
  block.dynamic_bytes = dynamic_bytes;
  block.run = &thread;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        RunBlock({x, y, z}, size, grid);
        if (!block.failed) continue;
        block.threads.clear();  // unwinds those that wait
        return;
      }
    }
  }
}

void Barrier(std::source_location at) {
  running->meeting = Meeting::kBarrier;
  running->mask = 0;
  running->at = at;
  Wait();
}

uint64_t Meet(Meeting meeting, unsigned mask, uint64_t value, int source_lane, std::source_location at) {
  if ((mask >> current.lane & 1) == 0)
    Fault(std::string(MeetingName(meeting)) + " whose mask lacks the caller", at);
  Thread& thread = *running;
  thread.meeting = meeting;
  thread.mask = mask;
  thread.value = value;
  thread.source_lane = source_lane;
  thread.at = at;
  Wait();
  return thread.result;
}

SharedMemory& BlockShared(const char* name, int64_t element_bytes, int64_t count, std::source_location at) {
  for (size_t i = 0; i < block.shared.size(); ++i) {
    if (block.shared_at[i].line() == at.line() && block.shared[i]->name == name) return *block.shared[i];
  }
  auto memory = std::make_unique<SharedMemory>();
  memory->name = name;
  memory->count = count;
  memory->bytes.resize(static_cast<size_t>(count * element_bytes));
  memory->touch.resize(static_cast<size_t>(count));
  block.shared.push_back(std::move(memory));
  block.shared_at.push_back(at);
  return *block.shared.back();
}

int64_t DynamicBytes() { return block.dynamic_bytes; }

namespace {

// Whether what `other` did is not yet ordered before what the running thread does.
bool Unordered(int32_t other, int64_t epoch, int64_t warp_epoch) {
  if (other == -1 || other == current.linear || epoch < block.epoch) return false;
  if (other == SharedMemory::kMany || other / kWarp != current.warp) return true;
  return warp_epoch == block.warp_epoch[current.warp];
}

}  // namespace

void SharedMemory::CheckIndex(int64_t i, std::source_location at) const {
  if (i >= 0 && i < count) return;
  Fault(name + "[" + std::to_string(i) + "] of " + std::to_string(count), at);
}

void SharedMemory::Read(int64_t i, std::source_location at) {
  CheckIndex(i, at);
  Touch& t = touch[static_cast<size_t>(i)];
  if (t.writer == -1) Fault(name + "[" + std::to_string(i) + "] is read and was never written", at);
  if (Unordered(t.writer, t.write_epoch, t.write_warp_epoch)) {
    Fault(name + "[" + std::to_string(i) + "] is read and was written by thread " + std::to_string(t.writer) +
              " since the last barrier",
          at);
  }
  const int64_t warp_epoch = block.warp_epoch[current.warp];
  const bool others =
      t.read_epoch == block.epoch && t.reader != -1 && t.reader != current.linear &&
      (t.reader == kMany || t.reader / kWarp != current.warp || t.read_warp_epoch == warp_epoch);
  t.reader = others ? kMany : current.linear;
  t.read_epoch = block.epoch;
  t.read_warp_epoch = warp_epoch;
}

void SharedMemory::Write(int64_t i, std::source_location at) {
  CheckIndex(i, at);
  Touch& t = touch[static_cast<size_t>(i)];
  if (Unordered(t.writer, t.write_epoch, t.write_warp_epoch)) {
    Fault(name + "[" + std::to_string(i) + "] is written and was written by thread " +
              std::to_string(t.writer) + " since the last barrier",
          at);
  }
  if (Unordered(t.reader, t.read_epoch, t.read_warp_epoch)) {
    Fault(
        name + "[" + std::to_string(i) + "] is written and was read by another thread since the last barrier",
        at);
  }
  t.writer = current.linear;
  t.write_epoch = block.epoch;
  t.write_warp_epoch = block.warp_epoch[current.warp];
  t.atomic = false;
}

void SharedMemory::Atomic(int64_t i, std::source_location at) {
  CheckIndex(i, at);
  Touch& t = touch[static_cast<size_t>(i)];
  if (t.writer == -1) Fault(name + "[" + std::to_string(i) + "] is changed and was never written", at);
  if (!t.atomic && Unordered(t.writer, t.write_epoch, t.write_warp_epoch)) {
    Fault(name + "[" + std::to_string(i) + "] is changed and was written by thread " +
              std::to_string(t.writer) + " since the last barrier",
          at);
  }
  if (Unordered(t.reader, t.read_epoch, t.read_warp_epoch)) {
    Fault(
        name + "[" + std::to_string(i) + "] is changed and was read by another thread since the last barrier",
        at);
  }
  const bool others = t.atomic && t.write_epoch == block.epoch && t.writer != current.linear;
  t.writer = others ? kMany : current.linear;
  t.write_epoch = block.epoch;
  t.write_warp_epoch = block.warp_epoch[current.warp];
  t.atomic = true;
}

}  // namespace omni::simt
