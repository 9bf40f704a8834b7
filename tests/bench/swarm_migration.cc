// What a migration costs an answer: regions are moved to and fro between two workers while sessions decode
// over links with mutual TLS; the longest silence of the answer meanwhile, and the bytes that went from node
// to node.
#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <stop_token>
#include <thread>

#include "store/format/model_files.h"
#include "tests/bench/swarm_cluster.h"
#include "tests/bench/swarm_figures.h"
#include "tests/bench/swarm_measurements.h"

namespace omni::bench {
namespace {

constexpr int kSessions = 2;
constexpr int kStillWindows = 40;
constexpr auto kStillWindow = std::chrono::milliseconds(120);

// Endless answers, and when each of their tokens came.
class Listeners {
 public:
  Listeners(SwarmCluster& cluster, int sessions) {
    for (int s = 0; s < sessions; ++s) {
      threads_.emplace_back([this, s, client = cluster.Client({"c"})] { Listen(s, *client); });
    }
  }
  ~Listeners() {
    stop_.request_stop();
    for (std::thread& thread : threads_) thread.join();
  }

  // By session, the tokens that came from `from` on, with the last one before.
  std::vector<std::vector<double>> Since(Clock::time_point from) {
    std::lock_guard lock(mutex_);
    std::vector<std::vector<double>> gaps;
    for (const auto& [session, times] : times_) {
      auto it = std::lower_bound(times.begin(), times.end(), from);
      if (it != times.begin()) --it;
      std::vector<double>& of = gaps.emplace_back();
      for (; it != times.end() && it + 1 != times.end(); ++it) of.push_back(Millis(*(it + 1) - *it));
    }
    return gaps;
  }
  void AwaitTokens(size_t count) {
    while (true) {
      {
        std::lock_guard lock(mutex_);
        size_t ready = 0;
        for (const auto& [session, times] : times_) ready += times.size() >= count;
        if (ready == threads_.size()) return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

 private:
  void Listen(int session, ClusterClient& client) {
    ClusterClient::Request request;
    request.prompt = "The captain looked at the sea";
    request.max_tokens = 500'000;
    request.sampler.temperature = 0.8f;
    request.sampler.seed = static_cast<uint64_t>(session) + 1;
    request.stop_at_end_of_text = false;
    request.cancel = stop_.get_token();
    const auto answer = client.Generate(request, [&](const GenerateEvent& event) {
      if (event.is_token) {
        std::lock_guard lock(mutex_);
        times_[session].push_back(Clock::now());
      }
      return !stop_.stop_requested();
    });
    if (!stop_.stop_requested()) Fail("an answer ended: " + answer.status().ToString());
  }

  std::stop_source stop_;
  std::mutex mutex_;
  std::map<int, std::vector<Clock::time_point>> times_;
  std::vector<std::thread> threads_;
};

struct Move {
  double worst_ms = 0;  // the longest silence of any session
  int64_t bytes = 0;    // fetched by the node it moved to
};

int64_t Fetched(const ClusterReport& report, const std::string& node) {
  for (const NodeView& n : report.view.nodes) {
    if (n.id.value == node) return static_cast<int64_t>(n.holdings.fetched_bytes);
  }
  return 0;
}

double Longest(const std::vector<std::vector<double>>& gaps) {
  double longest = 0;
  for (const auto& of : gaps) {
    for (double gap : of) longest = std::max(longest, gap);
  }
  return longest;
}

}  // namespace

nlohmann::json MeasureMigration(const SwarmBenchOptions& options) {
  const absl::StatusOr<ModelFiles> files = ReadModelFiles(options.model, {.tiles = false, .shared = false});
  Check(files.status());
  const absl::StatusOr<std::vector<PackHeader>> packs = ReadPackHeaders(*files);
  Check(packs.status());
  const ModelConfig& config = files->manifest.config;
  double layers = 0;  // of a region: those that have experts
  for (int64_t l = 0; l < config.layers; ++l) layers += config.IsAttention(l) ? 0 : 1;
  SwarmCluster cluster(options.omni, options.model);
  cluster.Secure();
  // Without shadows: a node that is a region's shadow lacks nothing of it.
  cluster.Coordinator("c", {"--shadows", "0"});
  for (const char* name : {"w1", "w2"}) cluster.Worker(name, cluster.AddressOf("c"), {}, cluster.Path(name));
  const auto settled = [&](const ClusterReport& report) {
    int nodes = 0;
    for (const NodeView& node : report.view.nodes)
      nodes += node.up && !node.self && node.holdings.filling == 0;
    return nodes == 2 &&
           std::all_of(report.view.regions.begin(), report.view.regions.end(), [&](const auto& r) {
             return r.record.owner != report.view.leader && r.record.target.value.empty();
           });
  };
  cluster.Await({"c"}, "the workers have all regions", settled);
  const auto client = cluster.Client({"c"});
  auto report = client->Status();
  Check(report.status());
  // Placed where they are, so that nothing else moves meanwhile.
  for (size_t r = 0; r < report->view.regions.size(); ++r) {
    const NodeId owner = report->view.regions[r].record.owner;
    Check(client->Place(RegionId(static_cast<int32_t>(r)), owner));
  }

  Listeners listeners(cluster, kSessions);
  listeners.AwaitTokens(200);
  const auto begun = Clock::now();
  std::vector<double> still;
  for (int i = 0; i < kStillWindows; ++i) {
    const auto from = Clock::now();
    std::this_thread::sleep_for(kStillWindow);
    still.push_back(Longest(listeners.Since(from)));
  }
  std::vector<double> between;
  for (const auto& of : listeners.Since(begun)) between.insert(between.end(), of.begin(), of.end());
  const double median = Median(between);

  // After the first round both nodes have had every region, and what a node had stays on its disk.
  std::vector<Move> moves;
  size_t first_round = 0;
  const int rounds = std::max(2, options.repetitions / 5);  // there or back, of every region
  for (int round = 0; round < rounds; ++round) {
    for (size_t r = 0; r < report->view.regions.size(); ++r) {
      const RegionId region(static_cast<int32_t>(r));
      auto before = client->Status();
      Check(before.status());
      const std::string to = before->view.regions[r].record.owner.value == "w1" ? "w2" : "w1";
      Move move;
      const int64_t fetched = Fetched(*before, to);
      const auto from = Clock::now();
      Check(client->Place(region, {to}));
      cluster.Await({"c"}, "the region has moved", [&](const ClusterReport& now) {
        move.bytes = Fetched(now, to) - fetched;
        return now.view.regions[r].record.owner.value == to && settled(now);
      });
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // what it caused has come to its end
      move.worst_ms = Longest(listeners.Since(from));
      moves.push_back(move);
    }
    if (round == 0) first_round = moves.size();
  }
  report = client->Status();
  Check(report.status());

  std::vector<double> per_layer, longest, still_per_layer;
  int64_t bytes = 0, back = 0, tiles = 0;
  for (size_t i = 0; i < moves.size(); ++i) {
    longest.push_back(moves[i].worst_ms);
    per_layer.push_back((moves[i].worst_ms - median) / layers);
    bytes += moves[i].bytes;
    if (i >= first_round) back += moves[i].bytes;
  }
  for (const PackHeader& pack : *packs) tiles += pack.count * pack.payload;
  for (double s : still) still_per_layer.push_back((s - median) / layers);
  return {{"migration_ms_per_layer", Median(per_layer)},
          {"migration_ms_per_layer_worst", *std::max_element(per_layer.begin(), per_layer.end())},
          {"migration_gap_ms_median", Median(longest)},
          {"migration_gap_ms_worst", *std::max_element(longest.begin(), longest.end())},
          {"migration_still_gap_ms_median", Median(still)},
          {"migration_still_gap_ms_worst", *std::max_element(still.begin(), still.end())},
          {"migration_between_tokens_ms", median},
          {"migration_moves", moves.size()},
          {"migration_layers_each", layers},
          {"migration_bytes", bytes},
          {"migration_bytes_back", back},
          // Of two nodes that began with nothing: each tile once at each.
          {"migration_fetched_per_tile_byte",
           static_cast<double>(Fetched(*report, "w1") + Fetched(*report, "w2")) /
               static_cast<double>(2 * tiles)}};
}

}  // namespace omni::bench
