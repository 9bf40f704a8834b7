// What memory that is put together pays: layers of full width whose experts one node has to read from its
// disk, and three nodes of the same memory each hold.
#include "tests/bench/swarm_cluster.h"
#include "tests/bench/swarm_figures.h"
#include "tests/bench/swarm_measurements.h"

namespace omni::bench {
namespace {

constexpr int kAnswers = 4;
constexpr int kTokens = 60;

// An untrained model's likeliest token is the one before, and then its experts are too: with a penalty on
// every token that was there, no token comes twice, and the routes change as they do in text.
ClusterClient::Request Changing(int number) {
  ClusterClient::Request request;
  request.prompt = "The captain looked at the sea " + std::to_string(number);
  request.max_tokens = kTokens;
  request.sampler.temperature = 0;
  request.sampler.repetition_penalty = 100;
  request.sampler.repetition_window = 2 * kTokens;
  request.stop_at_end_of_text = false;
  return request;
}

struct Answers {
  std::vector<double> rates;  // tokens a second
  std::vector<std::vector<TokenId>> tokens;
};

// The first answer fills the caches, and is not counted.
Answers Ask(ClusterClient& client) {
  Answers answers;
  for (int i = 0; i <= kAnswers; ++i) {
    const auto answer = client.Generate(Changing(i), nullptr);
    Check(answer.status());
    if (i > 0) answers.rates.push_back(static_cast<double>(kTokens - 1) / (Millis(answer->decode) / 1e3));
    answers.tokens.push_back(answer->tokens);
  }
  return answers;
}

}  // namespace

nlohmann::json MeasurePooled(const SwarmBenchOptions& options) {
  if (options.wide_model.empty()) return nlohmann::json::object();
  int64_t experts = 0;
  std::vector<std::string> memory;
  Answers one, three;
  uint64_t each = 0;
  {
    // What of its experts a third takes, and a region more: regions are not divided.
    SwarmCluster cluster(options.omni, options.wide_model);
    cluster.Coordinator("c", {"--threads", "2"});
    const auto report = cluster.Client({"c"})->Status();
    Check(report.status());
    uint64_t largest = 0;
    for (uint64_t bytes : report->region_bytes) {
      experts += static_cast<int64_t>(bytes);
      largest = std::max(largest, bytes);
    }
    each = static_cast<uint64_t>(experts) / 3 + largest;
    memory = {"--offer-ram", std::to_string(each), "--threads", "2"};
  }
  {
    SwarmCluster cluster(options.omni, options.wide_model);
    cluster.Coordinator("c", memory);
    one = Ask(*cluster.Client({"c"}));
  }
  int64_t rtt_us = 0;
  {
    SwarmCluster cluster(options.omni, options.wide_model);
    cluster.Coordinator("c", memory);
    for (const char* name : {"w1", "w2"}) cluster.Worker(name, cluster.AddressOf("c"), memory);
    cluster.Await({"c"}, "three nodes have all regions in memory", [&](const ClusterReport& report) {
      uint64_t own = 0;
      for (size_t r = 0; r < report.view.regions.size(); ++r) {
        const RegionRecord& record = report.view.regions[r].record;
        if (!record.target.value.empty()) return false;
        if (record.owner == report.view.leader) own += report.region_bytes[r];
      }
      for (const NodeView& node : report.view.nodes) {
        if (!node.up || node.holdings.filling > 0) return false;
      }
      return report.view.nodes.size() == 3 && own <= each;
    });
    const auto client = cluster.Client({"c"});
    three = Ask(*client);
    const auto report = client->Status();
    Check(report.status());
    for (const PeerView& peer : report->peers)
      rtt_us = std::max<int64_t>(rtt_us, peer.rtt_p50.count() / 1000);
  }
  return {{"pooled_memory_speedup", Median(three.rates) / Median(one.rates)},
          {"pooled_tok_per_s", Median(three.rates)},
          {"pooled_tok_per_s_quartiles", Quartiles(three.rates)},
          {"pooled_one_tok_per_s", Median(one.rates)},
          {"pooled_one_tok_per_s_quartiles", Quartiles(one.rates)},
          {"pooled_experts_bytes", experts},
          {"pooled_node_bytes", each},
          {"pooled_round_trip_us", rtt_us},
          {"pooled_different_answers", one.tokens == three.tokens ? 0 : 1}};
}

}  // namespace omni::bench
