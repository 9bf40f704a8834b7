#include "cluster/host.h"

#include <condition_variable>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include <absl/container/flat_hash_map.h>

#include "actors/region.h"
#include "cluster/cluster_log.h"
#include "cluster/messages.h"
#include "engine/base/threads.h"
#include "store/plan/machine.h"

namespace omni {
namespace {

// The thread that makes a node hold what it is to hold; there is none before it is to hold anything.
class Keeping {
 public:
  using OnHeld = std::function<void(HoldingsFrame)>;

  Keeping(RegionKeeper& keeper, OnHeld on_held) : keeper_(keeper), on_held_(std::move(on_held)) {}

  // What was to be held before, and is no more, is let go of.
  void Hold(AssignFrame assign) {
    std::lock_guard lock(mutex_);
    wanted_ = std::move(assign);
    changed_.request_stop();
    changed_ = std::stop_source();
    news_.notify_all();
    if (thread_.joinable()) return;
    try {
      thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
    } catch (const std::system_error& refused) {  // asked again with the next assignment
      HoldingsFrame frame;
      frame.filling = static_cast<uint32_t>(wanted_->regions.size());
      frame.error = ThreadsRefused(1, "fetch tiles", refused.code().value()).ToString();
      on_held_(std::move(frame));
    }
  }

 private:
  void Run(const std::stop_token& stop) {
    std::vector<RegionId> held;
    while (true) {
      AssignFrame assign;
      std::stop_token changed;
      {
        std::unique_lock lock(mutex_);
        if (!news_.wait(lock, stop, [this] { return wanted_.has_value(); })) return;
        assign = *std::exchange(wanted_, std::nullopt);
        changed = changed_.get_token();
      }
      const std::stop_callback ended(stop, [this] {
        std::lock_guard lock(mutex_);
        changed_.request_stop();
      });
      Work(assign, changed, held);
    }
  }

  void Work(const AssignFrame& assign, const std::stop_token& stop, std::vector<RegionId>& held) {
    std::vector<RegionId> wanted;
    for (const AssignFrame::Region& r : assign.regions) wanted.push_back(r.region);
    std::erase_if(held, [&](RegionId r) { return !std::binary_search(wanted.begin(), wanted.end(), r); });
    Tell(held, wanted.size() - held.size(), {0, progress_.fetched_bytes}, "");
    keeper_.Release(wanted);
    std::string error;
    std::chrono::milliseconds wait{200};
    while (held.size() < wanted.size() && !stop.stop_requested()) {
      bool failed = false;
      // What decides most comes first: what is owned, then what is to be, then what shadows others.
      for (const HoldingRole role : {HoldingRole::kOwner, HoldingRole::kTarget, HoldingRole::kShadow}) {
        for (const AssignFrame::Region& r : assign.regions) {
          if (r.role != role || std::binary_search(held.begin(), held.end(), r.region)) continue;
          const absl::Status kept = keeper_.Keep(
              r.region, assign.sources,
              [&](RegionKeeper::Progress p) { Tell(held, wanted.size() - held.size(), p, error); }, stop);
          if (stop.stop_requested()) return;
          if (kept.ok()) {
            held.insert(std::upper_bound(held.begin(), held.end(), r.region), r.region);
            error.clear();
          } else {
            failed = true;
            error = std::string(kept.message());
            LogRegionNotKept(r.region, kept);
          }
          Tell(held, wanted.size() - held.size(), progress_, error);
        }
      }
      if (!failed) return;
      std::unique_lock lock(mutex_);
      news_.wait_for(lock, stop, wait, [this] { return wanted_.has_value(); });
      wait = std::min(2 * wait, std::chrono::milliseconds(10'000));
    }
  }

  void Tell(const std::vector<RegionId>& held, size_t filling, RegionKeeper::Progress progress,
            const std::string& error) {
    progress_ = progress;
    HoldingsFrame frame;
    frame.regions = held;
    frame.filling = static_cast<uint32_t>(filling);
    frame.missing_bytes = progress.missing_bytes;
    frame.fetched_bytes = progress.fetched_bytes;
    frame.error = error;
    on_held_(std::move(frame));
  }

  RegionKeeper& keeper_;
  OnHeld on_held_;
  RegionKeeper::Progress progress_;
  std::mutex mutex_;
  std::condition_variable_any news_;
  std::optional<AssignFrame> wanted_;
  std::stop_source changed_;  // stops the work on what was wanted before
  std::jthread thread_;
};

}  // namespace

struct Host::Impl : public HostState::World {
  Impl(const ModelConfig& config_in, ExpertSource& experts_in, WorkerPool& pool, RegionKeeper& keeper_in,
       HostOptions options, ExpertRunner* runner)
      : config(config_in),
        region(config_in, experts_in, pool, RequesterId(), runner),
        keeper(keeper_in),
        state(config_in, std::move(options), counters, *this) {}

  // --- On the actor's thread

  void Write(HostState::StreamId stream, std::string frame) override {
    service->Write(stream, std::move(frame));
  }
  void Close(HostState::StreamId stream, absl::Status status) override { service->Close(stream, status); }
  void Compute(RegionRequestPtr request) override {
    const RegionId r = request->region;
    under_way[request->id] = request;
    self->send(At(r), std::move(request));
  }
  void Prefetch(const PrefetchFrame& f) override {
    region.For(RequesterId(f.region.value)).Prefetch(f.layer, f.experts, f.foresight);
  }
  void Hold(const AssignFrame& assign) override { keeping->Hold(assign); }
  void FlushSoon() override { self->send(self, HostFlush{}); }
  uint64_t FreeBytes() override { return static_cast<uint64_t>(Machine().FreeMemory().value_or(0)); }

  RegionActor At(RegionId r) {
    RegionActor& actor = regions[r.index()];
    if (!actor) {
      outstanding.Add();
      actor = self->spawn<caf::monitored>(Region, region.For(RequesterId(r.value)), &outstanding);
    }
    return actor;
  }

  // What it had begun is answered with an error, so that it is asked for elsewhere.
  void OnRegionDown(const caf::down_msg& down) {
    for (RegionActor& actor : regions) {
      if (!actor || actor.address() != down.source) continue;
      const RegionId r(static_cast<int32_t>(&actor - regions.data()));
      actor = nullptr;
      std::vector<RegionRequestPtr> lost;
      for (const auto& [id, request] : under_way) {
        if (request->region == r) lost.push_back(request);
      }
      for (const RegionRequestPtr& request : lost) {
        auto reply = std::make_shared<RegionReply>();
        reply->request_id = request->id;
        reply->region = r;
        reply->epoch = request->epoch;
        reply->attempt = request->attempt;
        reply->statuses.assign(request->experts.size(),
                               absl::UnavailableError("its actor ended: " + caf::to_string(down.reason)));
        Answered(std::move(reply));
      }
    }
  }
  void Answered(RegionReplyPtr reply) {
    under_way.erase(reply->request_id);
    state.OnReply(std::move(reply));
  }

  static HostActor::behavior_type Behavior(HostActor::pointer self, Impl* impl) {
    impl->outstanding.RemoveAtEndOf(self);
    impl->self = self;
    impl->regions.resize(static_cast<size_t>(impl->config.num_regions()));
    self->set_down_handler([impl](caf::down_msg& down) { impl->OnRegionDown(down); });
    self->set_exit_handler([self, impl](caf::exit_msg& exit) {
      for (RegionActor& actor : impl->regions) {
        if (!actor) continue;
        self->demonitor(actor.address());
        self->send_exit(actor, caf::exit_reason::user_shutdown);
        actor = nullptr;
      }
      self->quit(exit.reason);
    });
    return {
        [impl](const RegionReplyPtr& reply) { impl->Answered(reply); },
        [impl](const HostOpened& m) { impl->state.OnOpened(m.stream); },
        [impl](const HostFramePtr& m) { impl->state.OnFrame(m->stream, m->bytes); },
        [impl](const HostClosedPtr& m) { impl->state.OnClosed(m->stream, m->status); },
        [impl](const HostHeldPtr& m) { impl->state.OnHeld(std::move(m->holdings)); },
        [impl](const HostFlush&) { impl->state.Flush(); },
        [impl](const HostJoinedPtr& m) { impl->state.OnJoined(m->cluster, m->id); },
    };
  }

  const ModelConfig& config;
  RegionState region;
  RegionKeeper& keeper;
  HostCounters counters;
  HostState state;
  GrpcFrameService* service = nullptr;
  HostActor::pointer self = nullptr;
  std::vector<RegionActor> regions;
  absl::flat_hash_map<uint64_t, RegionRequestPtr> under_way;
  Outstanding outstanding;
  HostActor actor;
  std::unique_ptr<Keeping> keeping;  // goes first: it sends to the actor
};

Host::Host(ActorSystem& actors, const ModelConfig& config, ExpertSource& experts, WorkerPool& pool,
           RegionKeeper& keeper, HostOptions options, ExpertRunner* runner)
    : impl_(std::make_unique<Impl>(config, experts, pool, keeper, std::move(options), runner)) {
  impl_->outstanding.Add();
  impl_->actor = actors.system().spawn(&Impl::Behavior, impl_.get());
  impl_->keeping = std::make_unique<Keeping>(keeper, [actor = impl_->actor](HoldingsFrame holdings) {
    caf::anon_send(actor, std::make_shared<HostHeld>(HostHeld{std::move(holdings)}));
  });
}

Host::~Host() {
  impl_->keeping = nullptr;
  caf::anon_send_exit(impl_->actor, caf::exit_reason::user_shutdown);
  impl_->actor = nullptr;
  impl_->outstanding.WaitForNone();
}

void Host::Serve(GrpcFrameService& service, NodeId node) {
  impl_->service = &service;
  impl_->state.set_node(std::move(node));
}
void Host::OnOpened(StreamId stream) { caf::anon_send(impl_->actor, HostOpened{stream}); }
void Host::OnFrame(StreamId stream, FrameBytes frame) {
  caf::anon_send(impl_->actor, std::make_shared<HostFrame>(HostFrame{stream, std::move(frame)}));
}
void Host::OnClosed(StreamId stream, absl::Status status) {
  caf::anon_send(impl_->actor, std::make_shared<HostClosed>(HostClosed{stream, std::move(status)}));
}
void Host::OnJoined(std::string cluster, std::string id) {
  caf::anon_send(impl_->actor, std::make_shared<HostJoined>(HostJoined{std::move(cluster), std::move(id)}));
}
const HostCounters& Host::counters() const { return impl_->counters; }

}  // namespace omni
