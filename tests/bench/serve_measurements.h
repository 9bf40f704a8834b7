// The measurements of `omni serve`, a file each; every one returns the keys it adds to the report.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/testing/node_process.h"
#include "tests/testing/temp_dir.h"

namespace omni::bench {

struct ServeBenchOptions {
  std::string omni;   // the program
  std::string model;  // a small one
  int repetitions = 5;
  int tokens = 256;                         // of an answer
  int threads = 0;                          // that compute; 0: as omni serve by itself
  std::vector<int> sessions = {1, 16, 64};  // at once, of the engine alone
};

// `omni serve` on loopback, as a process. Ends the program if it does not start.
class ServeProcess {
 public:
  explicit ServeProcess(const ServeBenchOptions& options, std::vector<std::string> more = {});

  const std::string& address() const { return address_; }
  const std::string& grpc_address() const { return grpc_address_; }
  int64_t threads() const;
  int64_t resident_bytes() const;

 private:
  int64_t Status(const char* key) const;  // of /proc/PID/status

  testing::TempDir dir_;
  std::unique_ptr<testing::NodeProcess> process_;
  std::string address_, grpc_address_;
};

// What the n-th client asks: another text and seed for each, every second one greedy.
nlohmann::json ServeRequest(int client, int64_t tokens);

// What the engine gives to each of options.sessions in this process: tokens a second.
nlohmann::json MeasureEngine(const ServeBenchOptions& options);
// Tokens a second of one stream and of 16 and 64 at once, the times between tokens, and whether each answer
// is that of the same prompt alone.
nlohmann::json MeasureStreams(const ServeBenchOptions& options);
// What 2 000 streams that wait cost: threads, memory, and the times between tokens of those that do not.
nlohmann::json MeasureIdle(const ServeBenchOptions& options);
// What a token over gRPC costs beyond the engine's time.
nlohmann::json MeasureOverhead(const ServeBenchOptions& options);

}  // namespace omni::bench
