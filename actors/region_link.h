// How the coordinator reaches a region of the torus, whatever is behind it: an actor of this process, a node
// elsewhere, two of them, a simulation.
//
// An expert's answer is a pure function of the bytes it is asked with, so a request may be sent again, to
// anybody, at any time; what comes back first counts. A request owns what it carries: nobody shares a buffer
// with the sender.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <absl/container/inlined_vector.h>
#include <absl/status/status.h>

#include "engine/base/ids.h"
#include "engine/model/expert_source.h"

namespace omni {

// The experts of one region that one layer of one step needs. On a wire: the fields in this order.
struct RegionRequest {
  uint64_t id = 0;  // distinct per attempt
  RegionId region;
  uint64_t epoch = 0;  // of the placement by which it was sent
  int attempt = 1;
  LayerId layer;
  struct Expert {
    ExpertId expert;
    int32_t rows = 0;  // at least 1
  };
  absl::InlinedVector<Expert, 4> experts;  // ascending
  // The rows of all experts, one after another.
  int64_t rows = 0;
  int64_t width = 0;                         // int8 of a row: d padded to 64 with zeros
  const int8_t* q() const { return data_; }  // [rows, width]
  const float* scale() const { return reinterpret_cast<float*>(data_ + rows * width); }  // [rows]

  // Room for `rows` rows of `width`, which are set, at an address aligned to 64; returns where q is to be
  // written. Throws std::bad_alloc.
  int8_t* AllocateRows() {
    // Every hop makes one. What aligned_alloc gives does not come from the thread's cache of free memory but
    // goes into it: a hop took 1.12 us instead of 1.04.
    const auto bytes = static_cast<size_t>(rows * width) + static_cast<size_t>(rows) * sizeof(float);
    memory_ = std::make_unique_for_overwrite<int8_t[]>(bytes + 63);
    data_ = memory_.get() + (-reinterpret_cast<uintptr_t>(memory_.get()) & 63);
    return data_;
  }
  float* mutable_scale() { return reinterpret_cast<float*>(data_ + rows * width); }

 private:
  std::unique_ptr<int8_t[]> memory_;  // of q and scale
  int8_t* data_ = nullptr;            // in it
};
using RegionRequestPtr = std::shared_ptr<const RegionRequest>;

// On a wire: the fields in this order, without `source`.
struct RegionReply {
  uint64_t request_id = 0;
  RegionId region;
  uint64_t epoch = 0;
  int attempt = 1;
  absl::InlinedVector<absl::Status, 4> statuses;  // one per expert; an error concerns only that expert's rows
  std::vector<float> output;                      // [rows, d]; rows of a failed expert are undefined
  std::chrono::nanoseconds compute{0};  // of the thread that runs the coordinator, if the region is on it
  int32_t source = -1;                  // who of those behind the link answered, in the link's own count
};
using RegionReplyPtr = std::shared_ptr<const RegionReply>;

// What a link tells the coordinator. Thread-safe; never blocks.
class RegionLinkEvents {
 public:
  virtual ~RegionLinkEvents() = default;
  virtual void OnReply(RegionReplyPtr reply) = 0;
  // Whoever was behind the link is gone, and what had been asked of it is not answered.
  virtual void OnLost(RegionId region, std::string reason) = 0;
  // The region is served by somebody else from now on: requests of an epoch before this one are not answered,
  // and answers to them no longer count.
  virtual void OnMoved(RegionId region, uint64_t epoch) = 0;
};

// One region's link; used by one coordinator, on its thread.
class RegionLink {
 public:
  virtual ~RegionLink() = default;
  // An answer arrives as OnReply, or OnLost, or OnMoved; or nothing ever comes, which the coordinator's clock
  // notices. Never waits.
  virtual void Send(RegionRequestPtr request) = 0;
  // All requests of a layer have been sent: a link that gathers several for one message sends it now.
  virtual void Flush() {}
  // Experts of the region that the layer may or will need soon, in place of those it was told of for that
  // layer before. Changes nothing but times.
  virtual void Prefetch(LayerId layer, std::span<const ExpertId> experts, Foresight foresight) = 0;
  // Nothing sent before needs an answer any more, since none came in time or it was lost: whoever is behind
  // the link is begun afresh or replaced.
  virtual void Renew() = 0;

  // The request sent last has been answered by `reply`, which counts.
  virtual void OnAnswered(const RegionReply&) {}
  // When Wake is to be called, at the latest; asked after Flush and after Wake. For a link that asks somebody
  // else when an answer takes long.
  virtual std::optional<std::chrono::steady_clock::time_point> WakeTime() const { return std::nullopt; }
  virtual void Wake(std::chrono::steady_clock::time_point /*now*/) {}
};

// Makes what stands behind a region, on the coordinator's thread, from an actor of this process that could: a
// link of another kind, one around it, or itself. `events` outlives the link.
using LinkFactory = std::function<std::shared_ptr<RegionLink>(RegionId region, RegionLinkEvents& events,
                                                              std::shared_ptr<RegionLink> local)>;

}  // namespace omni
