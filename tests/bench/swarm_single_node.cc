// One node: decoding through a cluster's links against decoding without them, in one process.
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "cluster/coordinator_role.h"
#include "cluster/embedded_store.h"
#include "cluster/grpc_frames.h"
#include "cluster/grpc_loop.h"
#include "cluster/node.h"
#include "engine/text/prompt.h"
#include "tests/bench/swarm_figures.h"
#include "tests/bench/swarm_measurements.h"
#include "tests/testing/temp_dir.h"

namespace omni::bench {
namespace {

class Leader : public CoordinatorRole::Swarm {
 public:
  void OnElected(uint64_t) override {
    std::lock_guard lock(mutex_);
    elected_ = true;
    news_.notify_all();
  }
  void OnDeposed(const absl::Status&) override {}
  void OnOther(const LeaderRecord&) override {}
  std::vector<int64_t> RegionRequests() override { return {}; }
  void Wait() {
    std::unique_lock lock(mutex_);
    news_.wait(lock, [this] { return elected_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable news_;
  bool elected_ = false;
};

double DecodeRate(Node& node) {
  GenerateRequest request;
  request.prompt = PromptTokens(node.model().tokenizer(), "The captain looked at the sea");
  request.max_tokens = 400;
  request.stop_at_end_of_text = false;
  auto result = node.swarm().Generate(std::move(request), nullptr);
  Check(result.status());
  return result->timings.DecodeRate();
}

// Time per token through the links over that without them, less one, of each pair of runs.
std::vector<double> SingleNodeCosts(const std::string& model, int rounds) {
  NodeOptions options;
  options.model = model;
  options.swarm.threads = 1;
  auto plain = Node::Start(nullptr, options);
  Check(plain.status());
  auto waiting = std::make_unique<GrpcLoop>(GrpcLoop::Waiting::kWatching);
  GrpcLoop& loop = *waiting;
  auto actors = ActorSystem::Start(std::move(waiting));
  Check(actors.status());
  std::shared_ptr<ActorSystem> shared = *std::move(actors);
  auto linked = Node::Start(shared, options);
  Check(linked.status());
  testing::TempDir dir;
  auto store = EmbeddedStore::Open(dir / "store");
  Check(store.status());
  GrpcFrameTransport transport(nullptr, loop);
  Leader leader;
  const ModelConfig& config = (*linked)->model().config();
  CoordinatorRoleOptions with;
  with.cluster.self = {"self"};
  with.cluster.cluster = {"bench", (*linked)->model().hash(), static_cast<int32_t>(config.num_regions())};
  with.cluster.region_bytes.assign(static_cast<size_t>(config.num_regions()), 1);
  with.cluster.offered_bytes = 1 << 30;
  with.leadership.self = {{"self"}, "127.0.0.1:1"};
  with.leadership.exclusive = true;
  CoordinatorRole role(*shared, config, with, **store, transport, leader);
  SwarmOptions swarm = options.swarm;
  swarm.make_link = role.MakeLinks();
  Check((*linked)->Restart(swarm));
  role.Start();
  leader.Wait();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // the placement is published
  std::vector<double> costs;
  DecodeRate(**plain);
  DecodeRate(**linked);
  for (int i = 0; i < rounds; ++i) {
    const bool first = i % 2 == 0;
    const double a = DecodeRate(first ? **plain : **linked), b = DecodeRate(first ? **linked : **plain);
    costs.push_back((first ? a / b : b / a) - 1);
  }
  linked->reset();  // its links go before the role
  role.Stop();
  store->reset();
  return costs;
}

}  // namespace

nlohmann::json MeasureSingleNode(const SwarmBenchOptions& options) {
  const std::vector<double> costs = SingleNodeCosts(options.model, 41);
  return {{"single_node_cost", Median(costs)}, {"single_node_cost_quartiles", Quartiles(costs)}};
}

}  // namespace omni::bench
