// The round trip to a node: one row 4096 wide to a process on loopback and back, beyond the product itself.
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <latch>
#include <map>
#include <memory>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <caf/all.hpp>

#include "actors/messages.h"
#include "actors/outstanding.h"
#include "actors/region_state.h"
#include "cluster/certificates.h"
#include "cluster/grpc_frames.h"
#include "cluster/grpc_loop.h"
#include "cluster/host.h"
#include "cluster/node_credentials.h"
#include "cluster/peer.h"
#include "tests/bench/swarm_figures.h"
#include "tests/bench/swarm_measurements.h"
#include "tests/testing/temp_dir.h"

namespace omni::bench {
namespace {

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
  grpc::ServerBuilder builder;
  auto waiting = std::make_unique<GrpcLoop>(builder, GrpcLoop::Waiting::kWatching);
  GrpcLoop& loop = *waiting;
  auto actors = ActorSystem::Start(std::move(waiting));
  Check(actors.status());
  HostOptions options;
  options.node = {"wide"};
  Host host(**actors, config, experts, pool, keeper, options);
  auto credentials = NodeCredentials::Make(certificates, {"127.0.0.1:0"}, false);
  Check(credentials.status());
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", (*credentials)->server(), &port);
  GrpcFrameService service(builder, loop, host);
  const auto server = builder.BuildAndStart();
  host.Serve(service, {"wide"});
  service.Start();
  if (write(out, &port, sizeof(port)) != sizeof(port)) _exit(1);
  while (true) pause();
}

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

// Asks and is answered as a coordinator is: by messages to an actor and from it. In the order of its life:
// what the node holds is told, then the actor asks `rounds` times, one after another.
class Asker : public RegionLinkEvents, public PeerEvents {
 public:
  Asker(ActorSystem& actors, const ModelConfig& config, int rounds) : config_(config), rounds_(rounds) {
    outstanding_.Add();
    actor_ = actors.system().spawn([this](caf::event_based_actor* self) -> caf::behavior {
      outstanding_.RemoveAtEndOf(self);
      return {
          [this](step_atom) { Ask(); },
          [this, self](const RegionReplyPtr&) {
            times_.push_back(Micros(Clock::now() - asked_));
            if (static_cast<int>(times_.size()) < rounds_) {
              Ask();
            } else {
              self->quit();
            }
          },
      };
    });
  }

  void OnReply(RegionReplyPtr reply) override { caf::anon_send(actor_, std::move(reply)); }
  void OnLost(RegionId, std::string reason) override { Fail("the region was lost: " + reason); }
  void OnMoved(RegionId, uint64_t) override {}
  void OnUp(const NodeId&, const WelcomeFrame&) override {}
  void OnDown(const NodeId&, const absl::Status& reason) override { Fail(std::string(reason.message())); }
  void OnHoldings(const NodeId&, const HoldingsFrame& holdings) override {
    if (!holdings.regions.empty()) held_.count_down();
  }
  void OnFree(const NodeId&, uint64_t) override {}

  // When the peer has been told what to hold. Microseconds of each round.
  std::vector<double> Run(Peer& peer) {
    peer_ = &peer;
    held_.wait();
    caf::anon_send(actor_, step_atom_v);
    outstanding_.WaitForNone();
    return std::move(times_);
  }

 private:
  void Ask() {
    auto request = WideRow(config_, times_.size() + 1);
    asked_ = Clock::now();
    peer_->Send(std::move(request));
    peer_->Flush();
  }

  const ModelConfig& config_;
  const int rounds_;
  std::latch held_{1};
  Outstanding outstanding_;
  caf::actor actor_;
  // The actor's.
  Peer* peer_ = nullptr;
  Clock::time_point asked_;
  std::vector<double> times_;
};

struct RoundTrip {
  double median_us = 0, p99_us = 0, product_us = 0;
};

RoundTrip MeasureRoundTrip(int port, const std::string& certificates, int rounds) {
  const ModelConfig config = WideConfig();
  auto waiting = std::make_unique<GrpcLoop>(GrpcLoop::Waiting::kWatching);
  GrpcLoop& loop = *waiting;
  auto actors = ActorSystem::Start(std::move(waiting));
  Check(actors.status());
  auto credentials = NodeCredentials::Make(certificates, {"127.0.0.1:0"}, false);
  Check(credentials.status());
  GrpcFrameTransport transport((*credentials)->channel(), loop);
  Asker asker(**actors, config, rounds);
  LinkEvents links;
  links.Attach(&asker);
  HelloFrame hello;
  hello.term = 1;
  hello.regions = 1;
  Peer peer(**actors, config, {}, {"wide"}, "127.0.0.1:" + std::to_string(port), hello, 0, transport, links,
            asker);
  AssignFrame assign;
  assign.revision = 1;
  assign.regions.push_back({RegionId(0), 1, HoldingRole::kOwner});
  peer.Assign(assign);
  const std::vector<double> times = asker.Run(peer);
  std::vector<double> products;
  OneTile experts(config);
  WorkerPool pool(1);
  RegionState region(config, experts, pool);
  for (int i = 0; i < rounds; ++i) {
    const auto request = WideRow(config, 1);
    const auto start = Clock::now();
    if (region.Start(request, nullptr) == nullptr) Fail("the product was not computed");
    products.push_back(Micros(Clock::now() - start));
  }
  links.Detach(&asker);
  return {Median(times), Quantile(times, 0.99), Median(products)};
}

}  // namespace

nlohmann::json MeasureRoundTrips(const SwarmBenchOptions& options) {
  testing::TempDir dir;
  Check(MakeAuthority(dir / "authority"));
  Check(MakeNodeCertificate(dir / "authority", "wide", {"127.0.0.1"}, dir / "node"));
  // Forked before anything has threads.
  std::map<std::string, std::pair<pid_t, int>> nodes;  // by folder of certificates: process, port
  for (const std::string& certificates : {std::string(), dir / "node"}) {
    int ends[2];
    if (pipe(ends) != 0) Fail("no pipe");
    const pid_t pid = fork();
    if (pid == 0) ServeWide(certificates, ends[1]);
    int port = 0;
    if (read(ends[0], &port, sizeof(port)) != sizeof(port)) Fail("the node did not start");
    close(ends[0]);
    close(ends[1]);
    nodes[certificates] = {pid, port};
  }
  const RoundTrip plain = MeasureRoundTrip(nodes[""].second, "", options.rounds);
  const RoundTrip secured = MeasureRoundTrip(nodes[dir / "node"].second, dir / "node", options.rounds);
  for (const auto& [certificates, node] : nodes) {
    kill(node.first, SIGKILL);
    waitpid(node.first, nullptr, 0);
  }
  return {{"rtt_overhead_us", secured.median_us - secured.product_us},
          {"rtt_overhead_plain_us", plain.median_us - plain.product_us},
          {"rtt_p99_us", secured.p99_us},
          {"product_us", secured.product_us}};
}

}  // namespace omni::bench
