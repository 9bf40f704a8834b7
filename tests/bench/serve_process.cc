#include <fstream>
#include <utility>

#include "tests/bench/serve_measurements.h"
#include "tests/bench/swarm_figures.h"

namespace omni::bench {

ServeProcess::ServeProcess(const ServeBenchOptions& options, std::vector<std::string> more) {
  std::vector<std::string> arguments = {"-m",      options.model,  "--listen", "127.0.0.1:0",
                                        "--state", dir_ / "state", "--keys",   "none"};
  if (options.threads > 0) arguments.insert(arguments.end(), {"-t", std::to_string(options.threads)});
  arguments.insert(arguments.end(), more.begin(), more.end());
  process_ = std::make_unique<testing::NodeProcess>(options.omni, arguments, dir_ / "log", -1, "serve");
  address_ = process_->WaitForAddress();
  grpc_address_ = process_->WaitForGrpcAddress();
  if (grpc_address_.empty()) Fail("omni serve does not start: " + process_->Log());
}

int64_t ServeProcess::Status(const char* key) const {
  std::ifstream file("/proc/" + std::to_string(process_->pid()) + "/status");
  for (std::string word; file >> word;) {
    int64_t value = 0;
    if (word == key && file >> value) return value;
  }
  Fail(std::string("omni serve has no ") + key + " any more: " + process_->Log());
}

int64_t ServeProcess::threads() const { return Status("Threads:"); }
int64_t ServeProcess::resident_bytes() const { return Status("VmRSS:") * 1024; }

nlohmann::json ServeRequest(int client, int64_t tokens) {
  return {{"prompt", "The captain of ship " + std::to_string(client) + " looked at the sea"},
          {"max_tokens", tokens},
          {"temperature", client % 2 == 0 ? 0.0 : 0.9},
          {"seed", client + 1},
          {"ignore_eos", true},
          {"stream", true},
          {"stream_options", {{"include_usage", true}}}};
}

}  // namespace omni::bench
