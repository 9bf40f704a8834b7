// What a process of the swarm says of itself to whoever watches it: the status page, Prometheus.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <absl/status/status.h>

#include "actors/swarm.h"
#include "cluster/cluster_report.h"
#include "cluster/tasks/tasks_now.h"
#include "engine/model/config.h"
#include "store/cache/tile_cache.h"
#include "store/plan/memory_plan.h"

namespace omni {

// What stays as it is while the process runs.
struct ProcessFacts {
  ModelConfig config;
  std::string model_hash;
  std::string node;  // its name in the cluster; where there is none, the model's directory
  std::string isa;   // the instruction set that computes
  int64_t max_context = 0;
  int64_t unique_tiles = 0, tile_bytes = 0;  // of the model's experts; 0: they are not streamed
  std::optional<MemoryPlan> plan;            // if the model was opened under a budget
  std::string reads;                         // how tiles are read; empty: they are all in memory
};

struct ProcessStatus {
  SwarmStats swarm;
  absl::Status serving;                          // whether answers are given here; if not, why
  std::optional<CacheStats> cache;               // nothing: all experts are in memory
  int64_t cache_bytes = 0;                       // that the cache may take now
  std::shared_ptr<const ClusterReport> cluster;  // null: there is none, or another node coordinates it
  std::shared_ptr<const TasksNow> tasks;         // null: none are kept here
};

// Thread-safe; outlives whoever watches.
class StatusSource {
 public:
  virtual ~StatusSource() = default;
  virtual ProcessFacts Facts() = 0;
  // Does not wait: of a cluster it tells what was last known.
  virtual ProcessStatus Now() = 0;
};

}  // namespace omni
