// What makes a node serve regions: the actor behind the Exchange streams, its regions' actors, and the
// thread that fetches and warms what the node is to hold.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "actors/actor_system.h"
#include "cluster/grpc_frames.h"
#include "cluster/host_state.h"
#include "engine/decode/device_expert_runner.h"
#include "engine/decode/worker_pool.h"
#include "engine/model/config.h"
#include "engine/model/expert_source.h"

namespace omni {

// Brings a region's tiles here. Called on the host's own thread, one call at a time; it may take long.
class RegionKeeper {
 public:
  virtual ~RegionKeeper() = default;
  struct Progress {
    uint64_t missing_bytes = 0, fetched_bytes = 0;  // fetched: since the keeper began
  };
  // Fetches what the region lacks, from `sources`, the best first, and brings it into memory as far as there
  // is room. OK: all of it can be asked for. Cancelled: `stop`.
  virtual absl::Status Keep(RegionId region, const std::vector<std::string>& sources,
                            const std::function<void(Progress)>& on_progress,
                            const std::stop_token& stop) = 0;
  // These alone need be kept.
  virtual void Release(const std::vector<RegionId>& keep) = 0;
};

class Host : public GrpcFrameService::Events {
 public:
  using StreamId = GrpcFrameService::StreamId;

  // All references outlive it; `runner`, if not null, computes the experts in the place of the pool.
  Host(ActorSystem& actors, const ModelConfig& config, ExpertSource& experts, WorkerPool& pool,
       RegionKeeper& keeper, HostOptions options, ExpertRunner* runner = nullptr);
  ~Host() override;  // after its service has been stopped; not on the actors' thread

  // Where its frames go, and as whom it answers; before the service starts.
  void Serve(GrpcFrameService& service, NodeId node);

  void OnOpened(StreamId stream) override;
  void OnFrame(StreamId stream, FrameBytes frame) override;
  void OnClosed(StreamId stream, absl::Status status) override;
  void OnJoined(std::string cluster, std::string id);  // as HostState; from any thread
  const HostCounters& counters() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
