// What a swarm costs and what its failures cost, in one run on this machine: the round trip to a node
// beyond the product, decoding through a cluster's links against decoding without them, and the longest
// silence of an answer when a worker is killed or stopped, and when a coordinator is killed beside a second.
//
//     swarm_bench -m MODEL --omni PROGRAM [--repetitions N] [--json]
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "actors/region_state.h"
#include "cluster/certificates.h"
#include "cluster/cluster_client.h"
#include "cluster/coordinator_role.h"
#include "cluster/embedded_store.h"
#include "cluster/grpc_frames.h"
#include "cluster/host.h"
#include "cluster/node.h"
#include "cluster/node_credentials.h"
#include "cluster/peer.h"
#include "engine/text/prompt.h"
#include "tests/testing/etcd.h"
#include "tests/testing/node_process.h"
#include "tests/testing/temp_dir.h"

namespace omni::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Nanoseconds = std::chrono::nanoseconds;

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}
double Quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0
                        : values[std::min(values.size() - 1,
                                          static_cast<size_t>(share * static_cast<double>(values.size())))];
}
double Micros(Nanoseconds t) { return static_cast<double>(t.count()) / 1e3; }
double Millis(Nanoseconds t) { return static_cast<double>(t.count()) / 1e6; }

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "swarm_bench: %s\n", what.c_str());
  std::exit(1);
}
void Check(const absl::Status& status) {
  if (!status.ok()) Fail(std::string(status.message()));
}

// --- The round trip

// One layer of experts, one tile each: the least that a node can be asked to compute on a wide row.
ModelConfig WideConfig() {
  ModelConfig config;
  config.preset = "wide";
  config.d = 4096;
  config.layers = 1;
  config.attention_period = 100;
  config.lattice = {2, 1, 1};
  config.region = {2, 1, 1};
  config.f = 64;
  config.own_neurons = 64;
  return config;
}

class OneTile : public ExpertSource {
 public:
  explicit OneTile(const ModelConfig& config)
      : bytes_(static_cast<size_t>(TileLayout(config.d).payload()) + 64),
        tile_(bytes_.data() + (-reinterpret_cast<uintptr_t>(bytes_.data()) & 63)) {}
  absl::StatusOr<ExpertTiles> Acquire(LayerId, ExpertId) override {
    ExpertTiles tiles;
    tiles.tiles = std::span<const uint8_t* const>(&tile_, 1);
    return tiles;
  }

 private:
  std::vector<uint8_t> bytes_;
  const uint8_t* tile_;
};

class NothingToKeep : public RegionKeeper {
  absl::Status Keep(RegionId, const std::vector<std::string>&, const std::function<void(Progress)>&,
                    const std::stop_token&) override {
    return absl::OkStatus();
  }
  void Release(const std::vector<RegionId>&) override {}
};

// A node that serves WideConfig, until its parent is gone. Writes its port to `out`.
[[noreturn]] void ServeWide(const std::string& certificates, int out) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const ModelConfig config = WideConfig();
  OneTile experts(config);
  NothingToKeep keeper;
  WorkerPool pool(1);
  auto actors = ActorSystem::Start();
  Check(actors.status());
  HostOptions options;
  options.node = {"wide"};
  Host host(**actors, config, experts, pool, keeper, options);
  auto credentials = NodeCredentials::Make(certificates, {"127.0.0.1:0"}, false);
  Check(credentials.status());
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", (*credentials)->server(), &port);
  GrpcFrameService service(builder, host);
  const auto server = builder.BuildAndStart();
  host.Serve(service, {"wide"});
  service.Start();
  if (write(out, &port, sizeof(port)) != sizeof(port)) _exit(1);
  while (true) pause();
}

// The coordinator's end, told of answers on the actors' thread.
class Waiting : public RegionLinkEvents, public PeerEvents {
 public:
  void OnReply(RegionReplyPtr) override { Tell(); }
  void OnLost(RegionId, std::string reason) override { Fail("the region was lost: " + reason); }
  void OnMoved(RegionId, uint64_t) override {}
  void OnUp(const NodeId&, const WelcomeFrame&) override {}
  void OnDown(const NodeId&, const absl::Status& reason) override { Fail(std::string(reason.message())); }
  void OnHoldings(const NodeId&, const HoldingsFrame& holdings) override {
    if (!holdings.regions.empty()) Tell();
  }
  void OnFree(const NodeId&, uint64_t) override {}
  void Wait() {
    std::unique_lock lock(mutex_);
    news_.wait(lock, [this] { return told_; });
    told_ = false;
  }

 private:
  void Tell() {
    std::lock_guard lock(mutex_);
    told_ = true;
    news_.notify_one();
  }
  std::mutex mutex_;
  std::condition_variable news_;
  bool told_ = false;
};

std::shared_ptr<RegionRequest> WideRow(const ModelConfig& config, uint64_t id) {
  auto request = std::make_shared<RegionRequest>();
  request->id = id;
  request->epoch = 1;
  request->experts.push_back({ExpertId(0), 1});
  request->rows = 1;
  request->width = config.d;
  std::fill_n(request->AllocateRows(), config.d, int8_t{1});
  *request->mutable_scale() = 1;
  return request;
}

struct RoundTrip {
  double median_us = 0, p99_us = 0, product_us = 0;
};

RoundTrip MeasureRoundTrip(int port, const std::string& certificates, int rounds) {
  const ModelConfig config = WideConfig();
  auto actors = ActorSystem::Start();
  Check(actors.status());
  auto credentials = NodeCredentials::Make(certificates, {"127.0.0.1:0"}, false);
  Check(credentials.status());
  GrpcFrameTransport transport((*credentials)->channel());
  Waiting waiting;
  LinkEvents links;
  links.Attach(&waiting);
  HelloFrame hello;
  hello.term = 1;
  hello.regions = 1;
  Peer peer(**actors, config, {}, {"wide"}, "127.0.0.1:" + std::to_string(port), hello, 0, transport, links,
            waiting);
  AssignFrame assign;
  assign.revision = 1;
  assign.regions.push_back({RegionId(0), 1, HoldingRole::kOwner});
  peer.Assign(assign);
  waiting.Wait();
  std::vector<double> times, products;
  for (int i = 0; i < rounds; ++i) {
    const auto request = WideRow(config, static_cast<uint64_t>(i) + 1);
    const auto start = Clock::now();
    peer.Send(request);
    peer.Flush();
    waiting.Wait();
    times.push_back(Micros(Clock::now() - start));
  }
  OneTile experts(config);
  WorkerPool pool(1);
  RegionState region(config, experts, pool);
  for (int i = 0; i < rounds; ++i) {
    const auto request = WideRow(config, 1);
    const auto start = Clock::now();
    if (region.Start(request, nullptr) == nullptr) Fail("the product was not computed");
    products.push_back(Micros(Clock::now() - start));
  }
  links.Detach(&waiting);
  return {Median(times), Quantile(times, 0.99), Median(products)};
}

// --- One node, through a cluster's links and without

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
  auto actors = ActorSystem::Start();
  Check(actors.status());
  std::shared_ptr<ActorSystem> shared = *std::move(actors);
  auto linked = Node::Start(shared, options);
  Check(linked.status());
  testing::TempDir dir;
  auto store = EmbeddedStore::Open(dir / "store");
  Check(store.status());
  GrpcFrameTransport transport(nullptr);
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

// --- Failures of processes

struct Gaps {
  std::vector<double> worst_ms;  // by answer: the longest silence
  double median_ms = 0;          // between tokens
  int different = 0;
};

class Processes {
 public:
  Processes(std::string omni, std::string model) : omni_(std::move(omni)), model_(std::move(model)) {}

  void Coordinator(const std::string& name, std::vector<std::string> more) {
    std::string& at = addresses_[name];
    std::vector<std::string> arguments = {
        "--listen", at.empty() ? "127.0.0.1:0" : at, "--offer-ram", "1", "--state", dir_ / name};
    arguments.insert(arguments.end(), more.begin(), more.end());
    Start(name, std::move(arguments));
  }
  void Worker(const std::string& name, const std::string& coordinators) {
    std::string& at = addresses_[name];
    Start(name, {"--listen", at.empty() ? "127.0.0.1:0" : at, "--join", coordinators});
  }
  testing::NodeProcess& At(const std::string& name) { return *nodes_[name]; }
  const std::string& AddressOf(const std::string& name) { return addresses_[name]; }

  std::unique_ptr<ClusterClient> Client(const std::vector<std::string>& coordinators) {
    ClusterClientOptions options;
    for (const std::string& c : coordinators) options.addresses.push_back(addresses_[c]);
    auto client = ClusterClient::Make(options);
    Check(client.status());
    return *std::move(client);
  }
  // Until all workers are up and every region has owner and shadow among them.
  void AwaitSpread(const std::vector<std::string>& coordinators, size_t workers) {
    const auto client = Client(coordinators);
    const auto until = Clock::now() + std::chrono::seconds(60);
    while (Clock::now() < until) {
      const auto report = client->Status();
      size_t up = 0, settled = 0;
      if (report.ok()) {
        for (const NodeView& node : report->view.nodes)
          up += node.up && !node.self && node.holdings.filling == 0;
        for (const PeerView& peer : report->peers) up -= peer.suspect ? 1 : 0;
        for (const RegionView& r : report->view.regions) {
          settled += r.record.owner != report->view.leader && r.record.target.value.empty() &&
                     (workers < 2 || !r.record.shadow.value.empty());
        }
        if (up >= workers && settled == report->view.regions.size()) return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    Fail("the regions did not spread within a minute\n" + nodes_.begin()->second->Log());
  }

  // One answer of `tokens`; `at_third` is done when a third of it has come.
  void Answer(const std::vector<std::string>& coordinators, int tokens, const std::function<void()>& at_third,
              Gaps& gaps) {
    ClusterClient::Request request;
    request.prompt = "The captain looked at the sea";
    request.max_tokens = tokens;
    request.sampler.temperature = 0;
    request.stop_at_end_of_text = false;
    std::vector<double> between;
    Clock::time_point last;
    int seen = 0;
    auto answer = Client(coordinators)->Generate(request, [&](const GenerateEvent& event) {
      if (!event.is_token) return true;
      const auto now = Clock::now();
      if (seen > 0) between.push_back(Millis(now - last));
      last = now;
      if (++seen == tokens / 3 && at_third) at_third();
      return true;
    });
    Check(answer.status());
    if (want_.empty()) want_ = answer->tokens;
    gaps.different += answer->tokens != want_;
    gaps.worst_ms.push_back(*std::max_element(between.begin(), between.end()));
    gaps.median_ms = Median(between);
  }

 private:
  void Start(const std::string& name, std::vector<std::string> arguments) {
    arguments.insert(arguments.end(),
                     {"-m", model_, "--name", name, "--threads", "1", "--log-level", "info"});
    auto& node = nodes_[name];
    node = nullptr;
    node = std::make_unique<testing::NodeProcess>(omni_, std::move(arguments), dir_ / (name + ".log"));
    addresses_[name] = node->WaitForAddress();
    if (addresses_[name].empty()) Fail(node->Log());
  }

  const std::string omni_, model_;
  testing::TempDir dir_;
  std::map<std::string, std::string> addresses_;
  std::map<std::string, std::unique_ptr<testing::NodeProcess>> nodes_;
  std::vector<TokenId> want_;
};

constexpr int kTokens = 150;

struct Failures {
  Gaps steady, killed, stopped, standby;
};

Failures MeasureFailures(const std::string& omni, const std::string& model, int repetitions) {
  Failures failures;
  {
    Processes p(omni, model);
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
  Processes p(omni, model);
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

nlohmann::json ToJson(const Gaps& gaps) {
  if (gaps.worst_ms.empty()) return nullptr;
  return {{"repetitions", gaps.worst_ms.size()},
          {"median_ms", Median(gaps.worst_ms)},
          {"worst_ms", *std::max_element(gaps.worst_ms.begin(), gaps.worst_ms.end())},
          {"between_tokens_ms", gaps.median_ms},
          {"different_answers", gaps.different}};
}

}  // namespace
}  // namespace omni::bench

int main(int argc, char** argv) {
  using namespace omni::bench;
  CLI::App app("What a swarm costs, and what its failures cost");
  std::string model, omni;
  int repetitions = 20, rounds = 4000;
  bool json = false;
  app.add_option("-m", model)->required();
  app.add_option("--omni", omni)->required();
  app.add_option("--repetitions", repetitions);
  app.add_option("--rounds", rounds);
  app.add_flag("--json", json);
  CLI11_PARSE(app, argc, argv);

  omni::testing::TempDir dir;
  Check(omni::MakeAuthority(dir / "authority"));
  Check(omni::MakeNodeCertificate(dir / "authority", "wide", {"127.0.0.1"}, dir / "node"));
  // Forked before anything has threads.
  std::map<std::string, std::pair<pid_t, int>> nodes;  // by folder of certificates: process, port
  for (const std::string& certificates : {std::string(), dir / "node"}) {
    int ends[2];
    if (pipe(ends) != 0) Fail("no pipe");
    const pid_t pid = fork();
    if (pid == 0) ServeWide(certificates, ends[1]);
    int port = 0;
    if (read(ends[0], &port, sizeof(port)) != sizeof(port)) Fail("the node did not start");
    nodes[certificates] = {pid, port};
  }
  const RoundTrip plain = MeasureRoundTrip(nodes[""].second, "", rounds);
  const RoundTrip secured = MeasureRoundTrip(nodes[dir / "node"].second, dir / "node", rounds);
  for (const auto& [certificates, node] : nodes) {
    kill(node.first, SIGKILL);
    waitpid(node.first, nullptr, 0);
  }
  const std::vector<double> single = SingleNodeCosts(model, 41);
  const Failures failures = MeasureFailures(omni, model, repetitions);

  nlohmann::json out = {{"rtt_overhead_us", secured.median_us - secured.product_us},
                        {"rtt_overhead_plain_us", plain.median_us - plain.product_us},
                        {"rtt_p99_us", secured.p99_us},
                        {"product_us", secured.product_us},
                        {"single_node_cost", Median(single)},
                        {"single_node_cost_quartiles", {Quantile(single, 0.25), Quantile(single, 0.75)}},
                        {"steady", ToJson(failures.steady)},
                        {"killed_worker", ToJson(failures.killed)},
                        {"stopped_worker", ToJson(failures.stopped)},
                        {"standby", ToJson(failures.standby)}};
  for (const auto& [key, from] :
       {std::pair("failover_ms_worst", "killed_worker"), std::pair("stopped_gap_ms_worst", "stopped_worker"),
        std::pair("standby_ms_worst", "standby")}) {
    if (!out[from].is_null()) out[key] = out[from]["worst_ms"];
  }
  std::printf("%s\n", out.dump(json ? -1 : 2).c_str());
  return 0;
}
