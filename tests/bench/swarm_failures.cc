// Failures of processes: the longest silence of an answer when a worker is killed or stopped, and when a
// coordinator is killed beside a second.
#include "tests/bench/swarm_cluster.h"
#include "tests/bench/swarm_figures.h"
#include "tests/bench/swarm_measurements.h"
#include "tests/testing/etcd.h"

namespace omni::bench {
namespace {

constexpr int kTokens = 150;

struct Failures {
  Gaps steady, killed, stopped, standby;
};

Failures Measure(const std::string& omni, const std::string& model, int repetitions) {
  Failures failures;
  {
    SwarmCluster p(omni, model);
    p.Coordinator("c", {});
    p.Worker("w1", p.AddressOf("c"));
    p.Worker("w2", p.AddressOf("c"));
    p.AwaitSpread({"c"}, 2);
    for (int i = 0; i < repetitions; ++i) p.Answer({"c"}, kTokens, nullptr, failures.steady);
    for (int i = 0; i < repetitions; ++i) {
      const std::string victim = i % 2 == 0 ? "w1" : "w2";
      p.Answer(
          {"c"}, kTokens, [&] { p.At(victim).Kill(); }, failures.killed);
      p.Worker(victim, p.AddressOf("c"));
      p.AwaitSpread({"c"}, 2);
    }
    for (int i = 0; i < repetitions; ++i) {
      const std::string victim = i % 2 == 0 ? "w1" : "w2";
      p.Answer(
          {"c"}, kTokens, [&] { p.At(victim).Stop(); }, failures.stopped);
      p.At(victim).Continue();
      p.AwaitSpread({"c"}, 2);
    }
  }
  if (!testing::EtcdCluster::WhyNot().empty()) return failures;
  auto etcd = testing::EtcdCluster::Start({});
  Check(etcd.status());
  const std::vector<std::string> kept = {"--etcd", (*etcd)->endpoints().front(), "--durable", "cluster"};
  SwarmCluster p(omni, model);
  p.Coordinator("a", kept);
  p.Coordinator("b", kept);
  const std::string both = p.AddressOf("a") + "," + p.AddressOf("b");
  p.Worker("w1", both);
  p.Worker("w2", both);
  for (int i = 0; i < repetitions; ++i) {
    p.AwaitSpread({"a", "b"}, 2);
    const auto report = p.Client({"a", "b"})->Status();
    Check(report.status());
    const std::string leader = report->view.leader.value;
    p.Answer(
        {"a", "b"}, kTokens, [&] { p.At(leader).Kill(); }, failures.standby);
    p.Coordinator(leader, kept);
  }
  return failures;
}

}  // namespace

nlohmann::json MeasureFailures(const SwarmBenchOptions& options) {
  const Failures failures = Measure(options.omni, options.model, options.repetitions);
  nlohmann::json out = {{"steady", ToJson(failures.steady)},
                        {"killed_worker", ToJson(failures.killed)},
                        {"stopped_worker", ToJson(failures.stopped)},
                        {"standby", ToJson(failures.standby)}};
  for (const auto& [key, from] :
       {std::pair("failover_ms_worst", "killed_worker"), std::pair("stopped_gap_ms_worst", "stopped_worker"),
        std::pair("standby_ms_worst", "standby")}) {
    if (!out[from].is_null()) out[key] = out[from]["worst_ms"];
  }
  return out;
}

}  // namespace omni::bench
