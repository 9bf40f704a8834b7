// The measurements of a swarm, a file each; every one returns the keys it adds to the report.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace omni::bench {

struct SwarmBenchOptions {
  std::string omni;   // the program
  std::string model;  // a small one
  int repetitions = 20;
  int rounds = 4000;
};

// The round trip to a node beyond the product, with mutual TLS and without. Forks: call it before anything
// has threads.
nlohmann::json MeasureRoundTrips(const SwarmBenchOptions& options);
// Decoding through a cluster's links against decoding without them, in one process.
nlohmann::json MeasureSingleNode(const SwarmBenchOptions& options);
// The longest silence of an answer when a worker is killed or stopped, and when a coordinator is killed
// beside a second.
nlohmann::json MeasureFailures(const SwarmBenchOptions& options);

}  // namespace omni::bench
