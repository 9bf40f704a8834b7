// What shadows and hedging cost while all is well: three nodes decode with both and, beside them, three
// without.
#include <cmath>

#include "tests/bench/swarm_cluster.h"
#include "tests/bench/swarm_figures.h"
#include "tests/bench/swarm_measurements.h"

namespace omni::bench {
namespace {

constexpr int kPairs = 25;
constexpr int kTokens = 250;

double Rate(ClusterClient& client) {
  ClusterClient::Request request;
  request.prompt = "The captain looked at the sea";
  request.max_tokens = kTokens;
  request.sampler.temperature = 0;
  request.stop_at_end_of_text = false;
  const auto answer = client.Generate(request, nullptr);
  Check(answer.status());
  return static_cast<double>(answer->tokens.size() - 1) / (Millis(answer->decode) / 1e3);
}

// The coordinator and two workers; regions in turns at the workers: both clusters have the same owners.
void Start(SwarmCluster& cluster, std::vector<std::string> more) {
  const bool shadows = more.empty();
  cluster.Coordinator("c", std::move(more));
  for (const char* name : {"w1", "w2"}) cluster.Worker(name, cluster.AddressOf("c"));
  const auto client = cluster.Client({"c"});
  cluster.Await({"c"}, "the workers are there", [](const ClusterReport& report) {
    size_t up = 0;
    for (const NodeView& node : report.view.nodes) up += node.up;
    return up == 3;
  });
  const auto report = client->Status();
  Check(report.status());
  const auto owner = [](size_t r) { return NodeId{r % 2 == 0 ? "w1" : "w2"}; };
  for (size_t r = 0; r < report->view.regions.size(); ++r)
    Check(client->Place(RegionId(static_cast<int32_t>(r)), owner(r)));
  cluster.Await({"c"}, "the regions are where they were placed", [&](const ClusterReport& now) {
    for (size_t r = 0; r < now.view.regions.size(); ++r) {
      const RegionRecord& record = now.view.regions[r].record;
      if (record.owner != owner(r) || !record.target.value.empty()) return false;
      if (record.shadow.value.empty() == shadows) return false;
    }
    for (const NodeView& node : now.view.nodes) {
      if (!node.up || node.holdings.filling > 0) return false;
    }
    return true;
  });
}

}  // namespace

nlohmann::json MeasureSteady(const SwarmBenchOptions& options) {
  SwarmCluster with(options.omni, options.model), without(options.omni, options.model);
  Start(with, {});
  Start(without, {"--shadows", "0", "--hedge", "0"});
  const auto client_with = with.Client({"c"}), client_without = without.Client({"c"});
  for (ClusterClient* client : {client_with.get(), client_without.get()}) Rate(*client);  // warms up
  std::vector<double> costs, rates, bare_rates;
  for (int i = 0; i < kPairs; ++i) {
    const bool first = i % 2 == 0;
    const double a = Rate(first ? *client_without : *client_with);
    const double b = Rate(first ? *client_with : *client_without);
    rates.push_back(first ? b : a);
    bare_rates.push_back(first ? a : b);
    costs.push_back(bare_rates.back() / rates.back() - 1);
  }
  const auto report = client_with->Status();
  Check(report.status());
  return {{"steady_cost_3_nodes", Median(costs)},        {"steady_cost_3_nodes_quartiles", Quartiles(costs)},
          {"steady_cost_3_nodes_pairs", costs.size()},   {"steady_tok_per_s", Median(rates)},
          {"steady_bare_tok_per_s", Median(bare_rates)}, {"steady_hedges", report->hedges_sent}};
}

}  // namespace omni::bench
