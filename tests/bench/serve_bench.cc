// What `omni serve` makes of many clients, in one run on this machine.
//
//     serve_bench -m MODEL --omni PROGRAM [--repetitions N] [--only PART,...] [--json]
#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "tests/bench/serve_measurements.h"

int main(int argc, char** argv) {
  using namespace omni::bench;
  using Measure = nlohmann::json (*)(const ServeBenchOptions&);
  const std::vector<std::pair<std::string, Measure>> parts = {{"engine", MeasureEngine},
                                                              {"streams", MeasureStreams},
                                                              {"idle", MeasureIdle},
                                                              {"overhead", MeasureOverhead}};
  CLI::App app("What omni serve makes of many clients");
  ServeBenchOptions options;
  std::vector<std::string> only, names;
  for (const auto& [name, measure] : parts) names.push_back(name);
  bool json = false;
  app.add_option("-m", options.model, "a small model")->required();
  app.add_option("--omni", options.omni, "the program")->required();
  app.add_option("--repetitions", options.repetitions);
  app.add_option("--tokens", options.tokens, "of an answer");
  app.add_option("--threads", options.threads);
  app.add_option("--sessions", options.sessions, "at once, of the engine alone")
      ->delimiter(',')
      ->check(CLI::Range(1, 64));
  app.add_option("--only", only, "these parts")->delimiter(',')->check(CLI::IsMember(names));
  app.add_flag("--json", json);
  CLI11_PARSE(app, argc, argv);

  nlohmann::json out = nlohmann::json::object();
  for (const auto& [name, measure] : parts) {
    if (only.empty() || std::count(only.begin(), only.end(), name) > 0) out.update(measure(options));
  }
  std::printf("%s\n", out.dump(json ? -1 : 2).c_str());
  return out.value("different", 0) == 0 ? 0 : 1;
}
