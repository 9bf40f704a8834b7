#include "tests/testing/simulation/swarm.h"

#include <utility>

namespace omni::simulation {

class SimSwarm::LocalLink : public RegionLink {
 public:
  explicit LocalLink(SimSwarm& swarm) : swarm_(swarm) {}
  void Send(RegionRequestPtr request) override {
    Process& home = swarm_.home_;
    const Duration time =
        swarm_.compute_ / 2 + Duration(home.world.chance().Below(swarm_.compute_.count() + 1));
    home.At(home.Work(time), [&swarm = swarm_, alive = swarm_.alive_, life = life_, begun = *life_, request] {
      if (!*alive || *life != begun) return;
      auto reply = ToyAnswer(*request);
      swarm.mailbox_.Post([&swarm, reply] { swarm.Take(*reply); });
    });
  }
  void Prefetch(LayerId, std::span<const ExpertId>, Foresight) override {}
  void Renew() override { ++*life_; }

 private:
  SimSwarm& swarm_;
  std::shared_ptr<int> life_ = std::make_shared<int>(0);  // of the actor behind it
};

class SimSwarm::Handle : public Answer {
 public:
  Handle(SimSwarm& swarm, SessionId id, std::shared_ptr<SessionChannel> channel)
      : swarm_(swarm), alive_(swarm.alive_), id_(id), channel_(std::move(channel)) {}
  ~Handle() override {
    if (*alive_) swarm_.mailbox_.Post([&s = swarm_, id = id_] { s.state_->Cancel(id); });
  }
  SessionChannel::Taken Poll() override {
    SessionChannel::Taken taken = channel_->Poll();
    if (taken.resume && *alive_) swarm_.mailbox_.Post([&s = swarm_, id = id_] { s.state_->Resume(id); });
    return taken;
  }

 private:
  SimSwarm& swarm_;
  const std::shared_ptr<bool> alive_;
  const SessionId id_;
  const std::shared_ptr<SessionChannel> channel_;
};

SimSwarm::SimSwarm(Process& home, const RegionCallOptions& calls, const LinkFactory& links, Duration compute)
    : home_(home),
      compute_(compute),
      mailbox_(home),
      counters_(ToyConfig()),
      epochs_(static_cast<size_t>(ToyConfig().num_regions()), 1) {
  CoordinatorOptions options;
  options.max_active = 4;
  options.max_rows = 8;
  options.prefill_rows_beside_decode = 2;
  options.calls = calls;
  options.decide = {&choice_};
  state_ = std::make_unique<CoordinatorState>(ToyConfig(), decoder_, options, counters_);
  std::vector<std::shared_ptr<RegionLink>> made;
  for (int32_t r = 0; r < static_cast<int32_t>(ToyConfig().num_regions()); ++r)
    made.push_back(links(RegionId(r), *this, std::make_shared<LocalLink>(*this)));
  state_->Connect(this, std::move(made));
}

SimSwarm::~SimSwarm() {
  *alive_ = false;
  state_->Disconnect();
}

absl::StatusOr<std::unique_ptr<Answer>> SimSwarm::Submit(GenerateRequest request,
                                                         std::function<void()> notify) {
  if (absl::Status s = CheckRequest(request, ToyConfig().vocab, 1000); !s.ok()) return s;
  const SessionId id(next_session_++);
  auto channel = std::make_shared<SessionChannel>(4, std::move(notify));
  auto session = std::make_shared<Session>(id, std::move(request), ToyTokenizer(), 1000, channel);
  mailbox_.Post([this, session] { state_->Submit(session); });
  return std::make_unique<Handle>(*this, id, channel);
}

std::vector<int64_t> SimSwarm::RegionRequests() const {
  std::vector<int64_t> requests;
  for (const Counter& counter : counters_.region_requests) requests.push_back(counter.Get());
  return requests;
}

void SimSwarm::StepSoon() {
  mailbox_.Post([this] { state_->Step(); });
}
void SimSwarm::TickAfter(milliseconds time) {
  home_.AtOwn(time, [this, alive = alive_] {
    if (*alive) mailbox_.Post([this] { state_->OnTick(home_.Clock()); });
  });
}
void SimSwarm::WakeAt(Time time) {
  home_.AtOwn(std::max(Duration(0), time - home_.Clock()), [this, alive = alive_] {
    if (*alive) mailbox_.Post([this] { state_->OnWake(home_.Clock()); });
  });
}

void SimSwarm::OnReply(RegionReplyPtr reply) {
  mailbox_.Post([this, reply = std::move(reply)] { Take(*reply); });
}
void SimSwarm::OnLost(RegionId region, std::string reason) {
  mailbox_.Post([this, region, reason = std::move(reason)] { state_->OnLost(region, reason); });
}
void SimSwarm::OnMoved(RegionId region, uint64_t epoch) {
  mailbox_.Post([this, region, epoch] {
    uint64_t& known = epochs_[region.index()];
    known = std::max(known, epoch);
    state_->OnMoved(region, epoch);
  });
}

void SimSwarm::Take(const RegionReply& reply) {
  const int64_t before = decoder_.outputs();
  state_->OnReply(reply);
  if (decoder_.outputs() > before && reply.epoch != epochs_[reply.region.index()]) {
    home_.world.Fail(absl::StrCat(home_.name, " uses an answer of epoch ", reply.epoch, " of region ",
                                  reply.region.value, " at epoch ", epochs_[reply.region.index()]));
  }
}

}  // namespace omni::simulation
