#include "tests/testing/simulation/sim_peer.h"

#include <utility>

#include "tests/testing/simulation/toy_model.h"

namespace omni::simulation {

// What an earlier stream said does not count (cluster/peer.cc).
class SimPeer::Numbered : public FrameStream, public FrameStreamEvents {
 public:
  Numbered(SimPeer& peer, uint64_t number) : peer_(peer), number_(number) {}
  void Open(const std::string& address) { inner_ = peer_.network_.Open(peer_.home_, address, *this); }
  void Write(std::string frame) override { inner_->Write(std::move(frame)); }
  int64_t unsent_bytes() const override { return 0; }
  void OnFrame(FrameBytes frame) override {
    peer_.Do([&peer = peer_, number = number_, frame = std::move(frame)] {
      if (number == peer.last_stream_) peer.state_.OnFrame(frame, peer.home_.Clock());
    });
  }
  void OnClosed(absl::Status status) override {
    peer_.Do([&peer = peer_, number = number_, status = std::move(status)] {
      if (number == peer.last_stream_) peer.state_.OnClosed(status, peer.home_.Clock());
    });
  }

 private:
  SimPeer& peer_;
  const uint64_t number_;
  std::unique_ptr<FrameStream> inner_;
};

SimPeer::SimPeer(Process& home, const PeerOptions& options, NodeId node, const std::string& address,
                 HelloFrame hello, int32_t source, Network& network, LinkEvents& links, PeerOwner& owner)
    : home_(home),
      node_(std::move(node)),
      network_(network),
      links_(links),
      owner_(owner),
      health_(ToyConfig().num_regions()),
      mailbox_(home),
      state_(
          ToyConfig(), options, address, std::move(hello), [this](const std::string& to) { return Open(to); },
          health_, counters_, *this, *this, home.world.chance().Next(), source) {
  Do([this] { state_.Start(home_.Clock()); });
  Tick();
}

SimPeer::~SimPeer() = default;

void SimPeer::Tick() {
  home_.AtOwn(state_.TickEvery(), [this] {
    if (stopped_) return;
    Do([this] {
      state_.OnTick(home_.Clock());
      Tick();
    });
  });
}

void SimPeer::Do(std::function<void()> f) {
  mailbox_.Post([this, f = std::move(f)] {
    if (stopped_) return;
    f();
    CheckNothingForgotten();
  });
}

// Who has lost its stream has said so of everything that was asked over it.
void SimPeer::CheckNothingForgotten() {
  if (stopped_ || state_.up() || asked_.empty()) return;
  home_.world.Fail(absl::StrCat(home_.name, " lost its stream to ", node_.value,
                                " and says nothing of request ", asked_.begin()->first));
}

std::unique_ptr<FrameStream> SimPeer::Open(const std::string& address) {
  auto stream = std::make_unique<Numbered>(*this, ++last_stream_);
  stream->Open(address);
  return stream;
}

void SimPeer::OnReply(RegionReplyPtr reply) {
  asked_.erase(reply->request_id);
  links_.OnReply(std::move(reply));
}

void SimPeer::OnLost(RegionId region, std::string reason) {
  std::erase_if(asked_, [&](const auto& asked) { return asked.second == region; });
  links_.OnLost(region, std::move(reason));
}

void SimPeer::Flush() {
  if (gathered_.empty()) return;
  Do([this, requests = std::exchange(gathered_, {})] {
    if (state_.up()) {
      for (const RegionRequestPtr& request : requests) asked_[request->id] = request->region;
    }
    state_.Send(requests, home_.Clock());
  });
}

void SimPeer::Cancel(uint64_t request_id) {
  Do([this, request_id] {
    asked_.erase(request_id);
    state_.Cancel(request_id);
  });
}

void SimPeer::Stop() {
  mailbox_.Post([this] {
    stopped_ = true;
    state_.Stop();
  });
}

void SimPeer::Assign(AssignFrame assign) {
  Do([this, assign = std::move(assign)] { state_.Assign(assign, home_.Clock()); });
}

void SimPeer::SetAddress(std::string address) {
  Do([this, address = std::move(address)] { state_.SetAddress(address); });
}

}  // namespace omni::simulation
