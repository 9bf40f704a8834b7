// What a swarm costs and what its failures cost, in one run on this machine.
//
//     swarm_bench -m MODEL --omni PROGRAM [--wide MODEL] [--repetitions N] [--only PART,...] [--json]
//     swarm_bench -m MODEL --omni PROGRAM --churn SECONDS [--nodes N] [--sessions N] [--seed N] [--json]
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "tests/bench/swarm_measurements.h"

int main(int argc, char** argv) {
  using namespace omni::bench;
  using Measure = nlohmann::json (*)(const SwarmBenchOptions&);
  // The round trips come first: they fork.
  const std::vector<std::pair<std::string, Measure>> parts = {
      {"round-trip", MeasureRoundTrips}, {"single-node", MeasureSingleNode}, {"steady", MeasureSteady},
      {"migration", MeasureMigration},   {"pooled", MeasurePooled},          {"failures", MeasureFailures}};
  CLI::App app("What a swarm costs, and what its failures cost");
  SwarmBenchOptions options;
  std::vector<std::string> only, names;
  for (const auto& [name, measure] : parts) names.push_back(name);
  bool json = false;
  app.add_option("-m", options.model, "a small model")->required();
  app.add_option("--wide", options.wide_model, "layers of full width, for what is pooled");
  app.add_option("--omni", options.omni, "the program")->required();
  app.add_option("--repetitions", options.repetitions);
  app.add_option("--rounds", options.rounds, "of the round trip");
  app.add_option("--only", only, "these parts")->delimiter(',')->check(CLI::IsMember(names));
  int churn = 0;
  app.add_option("--churn", churn, "instead of all that, nodes come and go for so many seconds");
  app.add_option("--nodes", options.churn_nodes, "of --churn, the coordinator included");
  app.add_option("--sessions", options.churn_sessions, "of --churn, at once");
  app.add_option("--seed", options.seed, "of --churn");
  app.add_flag("--json", json);
  CLI11_PARSE(app, argc, argv);

  if (churn > 0) {
    options.churn = std::chrono::seconds(churn);
    const nlohmann::json out = RunChurn(options);
    std::printf("%s\n", out.dump(json ? -1 : 2).c_str());
    const bool well = out["churn_different"] == 0 && out["churn_failed"] == 0 &&
                      out["churn_bad_exits"] == 0 && out["churn_grown"] == 0;
    return well ? 0 : 1;
  }
  nlohmann::json out = nlohmann::json::object();
  for (const auto& [name, measure] : parts) {
    if (only.empty() || std::count(only.begin(), only.end(), name) > 0) out.update(measure(options));
  }
  std::printf("%s\n", out.dump(json ? -1 : 2).c_str());
  return 0;
}
