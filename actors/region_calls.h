// A layer's questions to the regions: sent by their links, asked again when nobody answers, and given up when
// nobody ever does.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "actors/counters.h"
#include "actors/region_link.h"
#include "engine/decode/expert.h"

namespace omni {

struct RegionCallOptions {
  std::chrono::milliseconds timeout{30000};  // of one attempt
  int attempts = 3;
  std::function<std::chrono::steady_clock::time_point()> now = &std::chrono::steady_clock::now;
};

// One thread.
class RegionCalls {
 public:
  using Clock = std::chrono::steady_clock;

  // What becomes of a job. Called from within the calls below.
  class Owner {
   public:
    virtual ~Owner() = default;
    virtual void OnOutput(const ExpertJob& job, const float* out) = 0;  // out: [job.rows.size(), d]
    virtual void OnFailed(const ExpertJob& job, const absl::Status& status) = 0;
  };

  // All references outlive it.
  RegionCalls(const ModelConfig& config, const RegionCallOptions& options, SwarmCounters& counters,
              Owner& owner);

  // By region; before anything else.
  void set_links(std::vector<std::shared_ptr<RegionLink>> links);

  // Of a layer that somebody else computes. Ask counts its jobs itself.
  void Count(LayerId layer, ExpertId expert, int64_t rows);
  // Sends the jobs of one layer with copies of their rows, which stay where they are until the layer is over:
  // an attempt after the first copies them again.
  void Ask(std::vector<ExpertJob> jobs);
  // `layer` may soon need these experts: every region is told of its own, ascending.
  void Prefetch(LayerId layer, std::span<const ExpertId> experts, Foresight foresight);

  // Whether the reply was waited for. Others are those of attempts that were given up.
  bool OnReply(const RegionReply& reply);
  void OnLost(RegionId region, const std::string& reason);
  void OnMoved(RegionId region, uint64_t epoch);
  void OnTick(Clock::time_point now);
  // When Wake is to be called, at the latest.
  std::optional<Clock::time_point> WakeTime() const;
  void Wake(Clock::time_point now);  // of the links

  bool idle() const { return open_ == 0; }  // nothing is waited for
  void GiveUp();                            // nothing is waited for any more
  int64_t TakeHops();  // messages since the last call: a request is one, its answer another

 private:
  struct Region {
    std::shared_ptr<RegionLink> link;
    uint64_t epoch = 1;
    std::vector<ExpertJob> jobs;  // of the request under way
    RegionRequestPtr request;     // null: none is under way
    Clock::time_point sent;
    std::vector<bool> told;  // by layer: it was told of experts and not asked since
  };

  Region& At(RegionId region) { return regions_[region.index()]; }
  void LetGoOfGuesses(LayerId layer);
  void Send(RegionId id, int attempt);
  void Retry(RegionId id, const std::string& reason);

  const ModelConfig& config_;
  const RegionCallOptions options_;
  SwarmCounters& counters_;
  Owner& owner_;
  std::vector<Region> regions_;
  std::vector<ExpertJob> answered_;  // of one reply
  std::vector<int32_t> told_;        // by layer: regions that were told of experts and not asked since
  std::vector<RegionId> asked_;      // of one Ask
  std::vector<ExpertId> of_one_region_;
  int64_t open_ = 0, hops_ = 0;
  uint64_t next_id_ = 1;
};

}  // namespace omni
