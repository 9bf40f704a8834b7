// Which node answers for which region, as the links see it: the placement of the moment, and how each node
// does.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "actors/region_link.h"
#include "cluster/frames.h"
#include "cluster/latency.h"

namespace omni {

// What is known of a remote node, written by whoever has its stream and read by the links. Thread-safe.
class NodeHealth {
 public:
  using Clock = std::chrono::steady_clock;

  // `node`: its name for the log; empty: nothing is logged.
  explicit NodeHealth(int64_t num_regions, std::string node = "")
      : node_(std::move(node)), holds_(static_cast<size_t>(num_regions)) {}

  bool up() const { return up_.load(std::memory_order_acquire); }
  // It has been silent for longer than its answers take, and others are asked first until it is heard again.
  bool suspect() const { return suspect_since_.load(std::memory_order_acquire) > heard_.load(); }
  bool Holds(RegionId region) const { return holds_[region.index()].load(std::memory_order_relaxed); }
  Clock::time_point heard() const { return Clock::time_point(Clock::duration(heard_.load())); }
  // The 99th percentile of late of answers to so many rows; zero: nothing measured.
  std::chrono::nanoseconds Usual(int64_t rows) const {
    return std::chrono::nanoseconds(usual_[Shape(rows)].load(std::memory_order_relaxed));
  }

  void SetUp(bool up) { up_.store(up, std::memory_order_release); }
  void SetHolds(RegionId region, bool holds) {
    holds_[region.index()].store(holds, std::memory_order_relaxed);
  }
  void Heard(Clock::time_point now) { heard_.store(now.time_since_epoch().count()); }
  void Suspect(Clock::time_point now);  // and says so in the log, if it was not
  void SetUsual(int64_t shape, std::chrono::nanoseconds p99) {
    usual_[static_cast<size_t>(shape)].store(p99.count(), std::memory_order_relaxed);
  }

  // Requests of about as many rows take about as long.
  static constexpr size_t kShapes = 5;
  static size_t Shape(int64_t rows) {
    return rows <= 1 ? 0 : rows <= 4 ? 1 : rows <= 16 ? 2 : rows <= 64 ? 3 : 4;
  }

 private:
  const std::string node_;
  std::atomic<bool> up_{false};
  std::atomic<int64_t> heard_{0}, suspect_since_{0};
  std::array<std::atomic<int64_t>, kShapes> usual_{};
  std::vector<std::atomic<bool>> holds_;
};

// A remote node as the links of one coordinator use it, on its thread.
class NodeLink {
 public:
  virtual ~NodeLink() = default;
  virtual void Send(RegionRequestPtr request) = 0;  // gathered until Flush
  virtual void Flush() = 0;
  virtual void Prefetch(PrefetchFrame prefetch) = 0;
  virtual void Cancel(uint64_t request_id) = 0;
  virtual NodeHealth& health() = 0;
};

// Immutable.
struct Placement {
  static constexpr int32_t kNobody = -1;
  static constexpr int32_t kSelf = -2;  // the coordinator's own process

  struct Region {
    uint64_t epoch = 0;
    int32_t owner = kSelf, shadow = kNobody;  // of `nodes`
  };
  uint64_t revision = 0;
  std::vector<Region> regions;
  std::vector<std::shared_ptr<NodeLink>> nodes;
};

// Thread-safe.
class Routes {
 public:
  std::shared_ptr<const Placement> Get() const {
    std::lock_guard lock(mutex_);
    return placement_;
  }
  void Set(std::shared_ptr<const Placement> placement) {
    std::lock_guard lock(mutex_);
    placement_ = std::move(placement);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const Placement> placement_;  // null: everything is served by this process
};

}  // namespace omni
