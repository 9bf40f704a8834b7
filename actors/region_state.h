// A region's work without the actor: experts in, outputs out, nothing kept between requests.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "actors/region_link.h"
#include "engine/decode/device_expert_runner.h"
#include "engine/decode/expert.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/expert_source.h"

namespace omni {

// A request whose experts may come from disk, one by one and in any order.
struct RegionWork {
  RegionRequestPtr request;
  std::vector<ExpertJob> jobs;  // by expert of the request; they point into its rows
  std::shared_ptr<RegionReply> reply;
  std::vector<std::unique_ptr<ExpertRun>>
      begun;  // by job: from the tiles that were there when others were not
  std::vector<bool> served;
  size_t left = 0;  // experts that have not been computed
};
using RegionWorkPtr = std::shared_ptr<RegionWork>;

// An expert that a request waits for, on its way from the source.
struct ExpertArrival {
  RegionWorkPtr work;
  size_t job = 0;
  absl::StatusOr<ExpertTiles> expert;
  bool partial = false;  // some of its tiles are null: all of them will come again
};

// The work of one region, or of several that share a thread: copies of a state know of each other. One thread
// at a time for all of them.
class RegionState {
 public:
  // Hands an arrival to OnArrival, later and on the region's own thread. Thread-safe.
  using Post = std::function<void(ExpertArrival)>;

  // All references outlive the region. `requester` is its name towards the source; `runner`, if not null,
  // computes the experts in the place of the pool.
  RegionState(const ModelConfig& config, ExpertSource& experts, WorkerPool& pool,
              RequesterId requester = RequesterId(), ExpertRunner* runner = nullptr)
      : config_(config),
        experts_(experts),
        pool_(pool),
        runner_(runner),
        requester_(requester),
        expected_(std::make_shared<std::vector<Expected>>()) {}
  RegionState For(RequesterId requester) const {
    RegionState copy = *this;
    copy.requester_ = requester;
    return copy;
  }

  bool resident() const { return experts_.resident(); }  // nothing is ever posted

  // This request will be started soon, by this copy or another. Of experts in memory, whatever is expected is
  // computed with what is started first: a layer asks many regions for a row or two each, which one after the
  // other are too little to be split over the pool, and together are not.
  void Expect(RegionRequestPtr request);
  // Asks for the request's experts. Returns the reply if they are in memory all the time, else null: they
  // arrive by `post`, each as soon as it is there.
  RegionReplyPtr Start(RegionRequestPtr request, const Post& post);
  // Returns the reply with the last expert, else null.
  RegionReplyPtr OnArrival(const ExpertArrival& arrival);

  void Prefetch(LayerId layer, std::span<const ExpertId> experts, Foresight foresight) {
    experts_.ReadAhead(requester_, layer, experts, foresight);
  }
  void ForgetPrefetches() { experts_.ForgetRequester(requester_); }

 private:
  struct Expected {  // the last one of its region
    RegionRequestPtr request;
    RegionReplyPtr reply;  // once it is computed
  };

  void Ask(const RegionWorkPtr& work, const Post& post);
  RegionReplyPtr StartTogether(const RegionRequestPtr& request);
  struct Item {  // of some works
    RegionWork* work;
    size_t job;
    absl::StatusOr<ExpertTiles> expert;
  };

  void ComputeAll(std::span<RegionWork* const> works);
  void ComputeTogether(RegionWork& work, std::span<const Item> items);
  bool ComputeAcross(std::span<const Item> items);
  void ComputeAlone(const Item& item);
  absl::Status RunOne(const ExpertTiles& expert, const ExpertJob& job, float* out);
  void Compute(RegionWork& work, size_t job, const absl::StatusOr<ExpertTiles>& expert);
  void ComputePartly(RegionWork& work, size_t job, const ExpertTiles& tiles);
  float* OutputOf(RegionWork& work, size_t job);

  const ModelConfig& config_;
  ExpertSource& experts_;
  WorkerPool& pool_;
  ExpertRunner* runner_;
  RequesterId requester_;
  std::shared_ptr<std::vector<Expected>> expected_;  // by all copies; at most one of each region
};

}  // namespace omni
