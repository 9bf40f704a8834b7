// What `omni plan` says, as figures and as text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "store/plan/forecast.h"
#include "store/plan/memory_plan.h"
#include "store/plan/speeds.h"

namespace omni::cli {

// One way in which tokens choose experts, and what to expect of it.
struct Expectation {
  std::string name;
  double hits = 0;
  int64_t disk_bytes = 0;  // of a token
  double rate = 0;         // tokens a second; 0: unknown
};

// Something to change, and the rate with it (local routing).
struct Change {
  std::string what;
  double rate = 0;
};

// Nodes with the plan's budget each that share a model's experts. Shared weights and tables are on each of
// them; a region's tiles are on its owner, and once more on its shadow.
struct NodesPlan {
  int64_t nodes = 0;       // that were asked about
  int64_t room_bytes = 0;  // for experts, on each
  int64_t all_bytes = 0;   // of all experts' tiles
  // The fewest with which none of them is read from a disk, without shadows and with them; INT64_MAX: there
  // is no room on any.
  int64_t enough = 0, enough_with_shadows = 0;
  double share() const;  // of the experts that the nodes have in memory, without shadows
};
// 1 … nodes.
NodesPlan PlanNodes(const MemoryPlan& plan, int64_t nodes);

struct PlanReport {
  std::string model;    // a directory, or a preset's name
  bool packed = false;  // the sizes are those of files
  int64_t model_bytes = 0;
  ModelConfig config;
  ModelSizes sizes;
  MemoryPlan plan;
  int64_t vram_bytes = 0;       // given by the user, or free on the device; 0: no GPU is planned for
  std::string device;           // the GPU's name, if it is here
  int64_t nodes = 0;            // given by the user; 0: not
  int64_t machine_bytes = 0;    // of memory; 0: unknown
  int64_t cpu_cache_bytes = 0;  // of the last level; 0: unknown
  TokenBytes token;
  absl::StatusOr<Dated<MemorySpeed>> memory;
  absl::StatusOr<Dated<DiskSpeed>> disk;
  std::string disk_path;  // what was read to measure it
  std::vector<Expectation> expected;
  std::vector<Change> changes;  // the best first; empty if nothing is known

  // The processor's cache may hold all that tokens touch: then the rates are what they are at least.
  bool in_cpu_cache() const;
  double delta() const;
  TierSpeeds speeds() const;
};

// Fills in `expected` and `changes` from the rest.
void Forecast(PlanReport& report);

std::string ToText(const PlanReport& report);
std::string ToJson(const PlanReport& report);

}  // namespace omni::cli
