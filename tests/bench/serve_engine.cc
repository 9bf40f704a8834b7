// The same streams without a door: what the engine gives to one and to many in this process.
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cluster/node.h"
#include "engine/text/prompt.h"
#include "tests/bench/serve_measurements.h"
#include "tests/bench/swarm_figures.h"

namespace omni::bench {
namespace {

double TokensPerSecond(Node& node, int count, int64_t tokens) {
  const Clock::time_point start = Clock::now();
  std::vector<std::jthread> clients;
  for (int i = 0; i < count; ++i) {
    clients.emplace_back([&, i] {
      GenerateRequest request;
      request.prompt =
          PromptTokens(node.model().tokenizer(), ServeRequest(i, tokens)["prompt"].get<std::string>());
      request.max_tokens = tokens;
      request.sampler.temperature = i % 2 == 0 ? 0.0f : 0.9f;
      request.sampler.top_k = 0;
      request.sampler.top_p = 1;
      request.sampler.seed = static_cast<uint64_t>(i) + 1;
      request.stop_at_end_of_text = false;
      Check(node.swarm().Generate(std::move(request), nullptr).status());
    });
  }
  clients.clear();
  return static_cast<double>(count * tokens) / std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

nlohmann::json MeasureEngine(const ServeBenchOptions& options) {
  NodeOptions engine;
  engine.model = options.model;
  engine.swarm.coordinator.max_active = 64;
  engine.swarm.threads = options.threads;
  auto node = Node::Start(nullptr, engine);
  Check(node.status());
  nlohmann::json out = nlohmann::json::object();
  std::map<int, std::vector<double>> rates;
  for (int repetition = 0; repetition < options.repetitions; ++repetition) {
    for (int count : options.sessions) {
      std::vector<double> ones;
      for (int run = 0; run < (count == 1 ? 4 : 1); ++run)
        ones.push_back(TokensPerSecond(**node, count, options.tokens));
      rates[count].push_back(Median(ones));
    }
  }
  for (const auto& [count, rate] : rates) out["engine" + std::to_string(count) + "_tok_per_s"] = Median(rate);
  return out;
}

}  // namespace omni::bench
