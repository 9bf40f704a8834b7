// The measurements of a swarm, a file each; every one returns the keys it adds to the report.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

namespace omni::bench {

struct SwarmBenchOptions {
  std::string omni;        // the program
  std::string model;       // a small one
  std::string wide_model;  // layers of full width; empty: what needs them is not measured
  int repetitions = 20;
  int rounds = 4000;
  std::chrono::seconds churn{0};
  int churn_nodes = 24, churn_sessions = 4;
  uint64_t seed = 1;
};

// The round trip to a node beyond the product, with mutual TLS and without. Forks: call it before anything
// has threads.
nlohmann::json MeasureRoundTrips(const SwarmBenchOptions& options);
// Decoding through a cluster's links against decoding without them, in one process.
nlohmann::json MeasureSingleNode(const SwarmBenchOptions& options);
// The longest silence of an answer when a worker is killed or stopped, and when a coordinator is killed
// beside a second.
nlohmann::json MeasureFailures(const SwarmBenchOptions& options);

// The silence of answers while regions move, and the bytes that moved.
nlohmann::json MeasureMigration(const SwarmBenchOptions& options);
// Shadows and hedging while all is well.
nlohmann::json MeasureSteady(const SwarmBenchOptions& options);
// Three nodes that together hold what one of them streams from its disk.
nlohmann::json MeasurePooled(const SwarmBenchOptions& options);
// Nodes that come and go for options.churn: churn_different, _failed, _bad_exits and _grown
// are to be 0.
nlohmann::json RunChurn(const SwarmBenchOptions& options);

}  // namespace omni::bench
