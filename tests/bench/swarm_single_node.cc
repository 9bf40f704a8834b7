// One node: decoding through a cluster's links against decoding without them, in one process.
#include <sys/resource.h>

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
  void OnDeposed(const absl::Status& reason) override {
    Fail("it does not lead any more, and has no placement: " + std::string(reason.message()));
  }
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

// Time of one answer's decoding, and the processor time that the whole process took for it.
struct Cost {
  double wall = 0, cpu = 0;
};

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Short, and many: how fast a virtual machine's processor is changes by a third from second to second, and
// both answers of a pair have to meet with the same.
constexpr int kTokens = 100;
constexpr int kPairs = 1500;

Cost Decode(Node& node) {
  GenerateRequest request;
  request.prompt = PromptTokens(node.model().tokenizer(), "The captain looked at the sea");
  request.max_tokens = kTokens;
  request.stop_at_end_of_text = false;
  const double before = CpuSeconds();
  auto result = node.swarm().Generate(std::move(request), nullptr);
  const double cpu = CpuSeconds() - before;
  Check(result.status());
  return {1 / result->timings.DecodeRate(), cpu};
}

struct Costs {
  std::vector<double> wall, cpu;  // through the links over without them, less one, of each pair of answers
};

Costs SingleNodeCosts(const std::string& model) {
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
  // Whether a busy machine lets the lease end, and with it the placement, is not what is measured.
  with.leadership.ttl = std::chrono::minutes(2);
  with.leadership.margin = std::chrono::seconds(20);
  CoordinatorRole role(*shared, config, with, **store, transport, leader);
  SwarmOptions swarm = options.swarm;
  swarm.make_link = role.MakeLinks();
  Check((*linked)->Restart(swarm));
  role.Start();
  leader.Wait();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // the placement is published
  Costs costs;
  Decode(**plain);
  Decode(**linked);
  for (int i = 0; i < kPairs; ++i) {
    const bool first = i % 2 == 0;
    const Cost a = Decode(first ? **plain : **linked), b = Decode(first ? **linked : **plain);
    costs.wall.push_back((first ? b.wall / a.wall : a.wall / b.wall) - 1);
    costs.cpu.push_back((first ? b.cpu / a.cpu : a.cpu / b.cpu) - 1);
  }
  linked->reset();  // its links go before the role
  role.Stop();
  store->reset();
  return costs;
}

}  // namespace

nlohmann::json MeasureSingleNode(const SwarmBenchOptions& options) {
  const Costs costs = SingleNodeCosts(options.model);
  return {{"single_node_cost", Median(costs.wall)},
          {"single_node_cost_quartiles", Quartiles(costs.wall)},
          {"single_node_cost_cpu", Median(costs.cpu)},
          {"single_node_cost_cpu_quartiles", Quartiles(costs.cpu)}};
}

}  // namespace omni::bench
